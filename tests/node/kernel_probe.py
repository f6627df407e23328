"""What the kernel of a sandbox can do: run inside one, as root, it prints one line for each row of the table in docs/kernels.md.

A line is a name, `: ` and what came of trying: `works`, or the error's name, or a few words. Every trial is a process of its own with
ten seconds: one that dies or hangs says so, and the others go on. It needs nothing but Python.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

USER = 1000
libc = ctypes.CDLL(None, use_errno=True)
SYS = {
    "openat2": 437,
    "io_uring_setup": 425,
    "landlock_create_ruleset": 444,
    "userfaultfd": 323,
    "bpf": 321,
    "close_range": 436,
}
NEW_USER, NEW_MOUNTS, NEW_PIDS = 0x10000000, 0x20000, 0x20000000

Trial = Callable[[], str | None]
trials: dict[str, Trial] = {}


def trial(name: str) -> Callable[[Trial], Trial]:
    """Add a trial: it returns what came of it, or raises OSError; None is `works`."""

    def add(function: Trial) -> Trial:
        trials[name] = function
        return function

    return add


def call(number: int, *arguments: object) -> int:
    """A system call. Raises: OSError."""
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *given)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def checked(status: int) -> None:
    """Raises: OSError, if a function of the C library failed."""
    if status < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def as_user() -> None:
    """Go on without root's rights."""
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


@trial("io_uring")
def _io_uring() -> None:
    call(SYS["io_uring_setup"], 4, ctypes.create_string_buffer(120))


@trial("Landlock")
def _landlock() -> None:
    call(SYS["landlock_create_ruleset"], 0, 0, 1)


@trial("openat2")
def _openat2() -> None:
    call(SYS["openat2"], -100, b"/", struct.pack("QQQ", os.O_RDONLY, 0, 0), 24)


@trial("copy_file_range")
def _copy_file_range() -> str | None:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(bytes(5000))
        source.flush()
        return None if os.copy_file_range(source.fileno(), target.fileno(), 5000, 0, 0) == 5000 else "copies in part"


@trial("SEEK_DATA, SEEK_HOLE")
def _seek_data() -> str | None:
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
        file.flush()
        return None if os.lseek(file.fileno(), 0, os.SEEK_DATA) >= 1 << 19 else "one block of data"


@trial("O_TMPFILE")
def _tmpfile() -> None:
    os.close(os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600))


@trial("pidfd_open")
def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


@trial("packet mode of terminals")
def _packet_mode() -> None:
    main, other = pty.openpty()
    fcntl.ioctl(main, 0x5420, struct.pack("i", 1))  # TIOCPKT
    os.close(main)
    os.close(other)


@trial("file capabilities")
def _file_capabilities() -> str | None:
    """Set the effective capability to bind low ports (10), and see whether a user's process has it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "cat")
        program.write_bytes(Path("/bin/cat").read_bytes())
        program.chmod(0o755)
        os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            as_user()
            os.dup2(writing, 1)
            os.execv(program, ["cat", "/proc/self/status"])
        os.close(writing)
        with os.fdopen(reading) as status:
            effective = [line.split()[1] for line in status if line.startswith("CapEff:")]
        os.waitpid(pid, 0)
        return None if effective and int(effective[0], 16) == 1 << 10 else "no effect"


@trial("set-user-ID programs")
def _set_user_id() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "cat")
        program.write_bytes(Path("/bin/cat").read_bytes())
        program.chmod(0o755 | stat.S_ISUID)
        secret = Path(folder, "secret")
        secret.write_text("x")
        secret.chmod(0o600)
        if (pid := os.fork()) == 0:
            as_user()
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
            os.dup2(1, 2)
            os.execv(program, ["cat", str(secret)])
        return None if os.waitpid(pid, 0)[1] == 0 else "no effect"


@trial("user namespaces (bubblewrap)")
def _user_namespace() -> None:
    as_user()
    checked(libc.unshare(NEW_USER))


@trial("mounts by root")
def _mounts() -> None:
    checked(libc.unshare(NEW_MOUNTS))
    with tempfile.TemporaryDirectory() as folder:
        checked(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, None))
        checked(libc.umount2(os.fsencode(folder), 0))


@trial("overlay mounts by root")
def _overlay() -> None:
    checked(libc.unshare(NEW_MOUNTS))
    with tempfile.TemporaryDirectory() as folder:
        checked(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, None))
        for name in ("lower", "upper", "work", "merged"):
            Path(folder, name).mkdir()
        options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work".encode()
        checked(libc.mount(b"overlay", os.fsencode(f"{folder}/merged"), b"overlay", 0, options))
        checked(libc.umount2(os.fsencode(f"{folder}/merged"), 0))
        checked(libc.umount2(os.fsencode(folder), 0))


@trial("new process namespaces by root")
def _pid_namespace() -> None:
    checked(libc.unshare(NEW_PIDS))
    if (pid := os.fork()) == 0:
        os._exit(os.getpid() != 1)
    assert os.waitpid(pid, 0)[1] == 0


@trial("control groups")
def _cgroups() -> str | None:
    return None if list(Path("/sys/fs/cgroup").glob("*")) else "none"


@trial("packet filters (iptables, nft)")
def _packet_filters() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.getsockopt(0, 64, 84)  # IPT_SO_GET_INFO


@trial("fault codes of pages")
def _fault_codes() -> str | None:
    """Julia and the like tell by it whether a barrier page was read or written."""
    direct = ctypes.PyDLL(None)
    seen: list[int] = []
    page = mmap.mmap(-1, mmap.PAGESIZE)
    start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def note(_number: int, _info: int, context: int) -> None:
        seen.append(ctypes.c_uint64.from_address(context + 40 + 19 * 8).value)
        direct.mprotect(start, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(note)
    action = struct.pack("Q128xi4xQ", ctypes.cast(handler, ctypes.c_void_p).value or 0, 4, 0)  # SA_SIGINFO
    direct.mprotect(start, mmap.PAGESIZE, mmap.PROT_READ)
    direct.sigaction(signal.SIGSEGV, action, None)
    ctypes.memset(start, 1, 1)
    return None if seen[0] & 2 else "always 0"


@trial("close_range to the end")
def _close_range() -> None:
    call(SYS["close_range"], 1000, 2**32 - 1, 0)


@trial("userfaultfd")
def _userfaultfd() -> None:
    call(SYS["userfaultfd"], 0)


@trial("bpf")
def _bpf() -> None:
    call(SYS["bpf"], 0, ctypes.create_string_buffer(120), 120)


@trial("sock_diag (ss)")
def _sock_diag() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4).close()


@trial("FUSE")
def _fuse() -> None:
    if not Path("/dev/fuse").exists():
        os.mknod("/tmp/fuse", stat.S_IFCHR | 0o600, os.makedev(10, 229))
        os.close(os.open("/tmp/fuse", os.O_RDWR))
    else:
        os.close(os.open("/dev/fuse", os.O_RDWR))


@trial("loop devices")
def _loop() -> None:
    os.close(os.open("/dev/loop-control", os.O_RDWR))


@trial("packet sockets (tcpdump)")
def _packet() -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()


@trial("raw sockets")
def _raw() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@trial("ping")
def _ping() -> None:
    as_user()
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()


@trial("unprivileged low ports")
def _low_ports() -> None:
    as_user()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 80))


@trial("mlock")
def _mlock() -> None:
    with mmap.mmap(-1, 48 << 10) as memory:
        checked(libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), 48 << 10))
        os._exit(0)


@trial("ptrace (gdb, strace)")
def _ptrace() -> str | None:
    if (pid := os.fork()) == 0:
        libc.ptrace(0, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, 0)
    checked(libc.ptrace(24, pid, None, None))  # PTRACE_SYSCALL
    status = os.waitpid(pid, 0)[1]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None if os.WIFSTOPPED(status) else "does not stop"


def attempt(name: str) -> str:
    """What came of one trial, made in a child."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reading)
        try:
            result = trials[name]() or "works"
        except OSError as error:
            result = errno.errorcode.get(error.errno or 0, str(error.errno))
        except BaseException as error:  # noqa: BLE001 - this is a process of its own
            result = repr(error)
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + 10
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hangs"
        time.sleep(0.005)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read(200).decode()
    if os.WIFSIGNALED(done[1]):
        return signal.Signals(os.WTERMSIG(done[1])).name
    return text or "works"


if __name__ == "__main__":
    for name in sys.argv[1:] or trials:
        print(f"{name}: {attempt(name)}", flush=True)
