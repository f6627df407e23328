"""Code in a sandbox is hostile from its first instruction: what it must not see, reach or change."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machines import Box

_SYSTEM_CALLS = {
    "add_key": (248, "b'user', b'name', b'x', 1, -3"),
    "keyctl": (250, "0, -5, 1"),
    "init_module": (175, "0, 0, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "reboot": (169, "0xfee1dead, 672274793, 0, 0"),
    "bpf": (321, "0, 0, 0"),
    "perf_event_open": (298, "0, 0, -1, -1, 0"),
    "userfaultfd": (323, "0"),
    "io_uring_setup": (425, "1, b'\\0' * 120"),
    "open_by_handle_at": (304, "-1, 0, 0"),
    "swapon": (167, "b'/swap', 0"),
    "settimeofday": (164, "b'\\0' * 16, 0"),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_dangerous_system_calls_are_refused(box: Box) -> None:
    calls = "\n".join(
        f"print({name!r}, libc.syscall({number}, {arguments}))" for name, (number, arguments) in _SYSTEM_CALLS.items()
    )
    output = box.python(f"import ctypes\nlibc = ctypes.CDLL(None)\n{calls}")
    results = dict(line.split() for line in output.splitlines())
    assert results == dict.fromkeys(_SYSTEM_CALLS, "-1")


_SILENT = {
    "modify_ldt": (154, "0, 0, 0"), "pidfd_getfd": (438, "-1, 0, 0"), "memfd_secret": (447, "0"),
    "kcmp": (312, "1, 1, 0, 0, 0"), "process_madvise": (440, "-1, 0, 0, 0, 0"), "fsopen": (430, "b'tmpfs', 0"),
    "mount_setattr": (442, "-100, 0, 0, 0, 0"), "name_to_handle_at": (303, "-100, 0, 0, 0, 0"),
    "fanotify_init": (300, "0, 0"), "statmount": (457, "0, 0, 0, 0"), "clone3": (435, "0, 0"), "mbind": (237, "0, 0, 0, 0, 0, 0"),
    "add_key": (248, "0, 0, 0, 0, 0"), "io_uring_register": (427, "-1, 0, 0, 0"),
}  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_rare_system_calls_do_not_reach_the_kernel(box: Box, runtime: str) -> None:
    """Refused for what they are, not for their arguments: the errors are those of the filter."""
    if runtime != "crun":
        pytest.skip("gVisor's calls are answered by its own kernel")
    calls = "\n".join(
        f"libc.syscall({number}, {arguments}); print({name!r}, ctypes.get_errno())"
        for name, (number, arguments) in _SILENT.items()
    )
    output = box.python(f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n{calls}")
    results = {name: int(number) for name, number in (line.split() for line in output.splitlines())}
    assert {name for name, number in results.items() if number not in (errno.EPERM, errno.ENOSYS)} == set()


_SOCKETS = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for family in range(64):
    for make in (socket.socket, lambda f, t: socket.socketpair(f, t)[0]):
        try:
            made = make(family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                print(family, error.errno)
        else:
            print(family, "open")
for protocol in range(32):
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    except OSError:
        continue
    print("netlink", protocol)
flags = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
for family in (socket.AF_INET, socket.AF_INET6):
    for protocol in [*range(-2, 300), 1 << 16, (1 << 31) - 1]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, 6, socket.SOCK_RAW | flags):
            made = libc.syscall(41, int(family), int(kind), protocol)
            if made >= 0:
                os.close(made)
            print("internet", int(family), kind & 15, protocol, 0 if made >= 0 else ctypes.get_errno())
print("high", libc.syscall(41, ctypes.c_ulong(1 << 32 | 40), 1, 0))
"""


_V4, _V6 = int(socket.AF_INET), int(socket.AF_INET6)
_INTERNET = {
    *((family, 1, protocol) for family in (_V4, _V6) for protocol in (0, 6)),
    *((family, 2, protocol) for family in (_V4, _V6) for protocol in (0, 17)),
    (_V4, 2, 1),
    (_V6, 2, 58),
}
"""Family, kind (1: stream, 2: datagram), protocol of the sockets that there are."""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86-64")
def test_sockets_are_of_few_families(box: Box, runtime: str) -> None:
    lines = box.python(_SOCKETS).splitlines()
    internet = {tuple(map(int, line.split()[1:])) for line in lines if line.startswith("internet")}
    tried = {(family, protocol) for family, _, protocol, _ in internet}
    opened = {int(line.split()[0]) for line in lines if line.endswith("open")}
    assert "high -1" in lines
    if runtime == "crun":
        assert opened == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
        assert {line for line in lines if line.startswith("netlink")} == {"netlink 0", "netlink 4"}
        assert {(family, kind, protocol) for family, kind, protocol, error in internet if not error} <= _INTERNET
        refused = {(family, protocol) for family, _, protocol, error in internet if error == errno.EPROTONOSUPPORT}
        assert refused >= tried - {(family, protocol) for family, _, protocol in _INTERNET}
        assert len([line for line in lines if line[0].isdigit()]) == 5, (
            "errors are those of a kernel without the family"
        )
    else:
        assert opened <= {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET}


def test_programs_for_other_kinds_of_machines_do_not_run(box: Box, runtime: str) -> None:
    """A 32-bit system call (int 0x80): the program that makes one is ended."""
    if os.uname().machine != "x86_64":
        pytest.skip("of x86-64")
    source = 'int main(void) { int r; __asm__ volatile ("int $0x80" : "=a"(r) : "a"(20)); return r > 0 ? 42 : 0; }'
    box.sh(f"cd /tmp && printf '%s' '{source}' > old.c && gcc -o old old.c")
    assert box.run("/tmp/old")[0] != 42


def test_no_descriptor_leads_to_the_host(box: Box) -> None:
    links = box.run("for fd in /proc/[0-9]*/fd/*; do readlink $fd; done")[1]
    allowed = (
        "socket:",
        "pipe:",
        "anon_inode:",
        "/dev/null",
        "/proc/",
        "/dev/pts",
        "inotify",
        "/dev/urandom",
        "/run/sandpit/agent.log",
        "/upper",  # the sandbox's own disk, a file system of gVisor's
    )
    foreign = [link for link in links.splitlines() if not link.startswith(allowed) and "pipe" not in link]
    assert foreign == []


def test_output_of_the_first_process_does_not_grow_the_host(box: Box) -> None:
    """Whoever is root in the sandbox can write to the first process's descriptors."""
    before = _bytes_below(box.directory)
    box.run("for fd in 0 1 2; do head -c 3000000 /dev/zero > /proc/1/fd/$fd; done; true")
    assert _bytes_below(box.directory) < before + 1_000_000


def _bytes_below(directory: Path) -> int:
    names = ("runtime.log", "record.json", "config.json")
    return sum(path.stat().st_size for name in names for path in directory.rglob(name))


def test_the_host_is_out_of_sight(box: Box, tmp_path: Path) -> None:
    marker = tmp_path / "of-the-host"
    marker.touch()
    assert box.run(f"test -e {marker}")[0] != 0
    assert box.run(f"test -e /proc/1/root{marker}")[0] != 0
    assert box.run(f"test -e /proc/1/cwd/../../..{marker}")[0] != 0
    pids = [int(name) for name in box.sh("ls /proc").split() if name.isdigit()]
    assert len(pids) < 20
    assert box.run(f"kill -0 {os.getpid()}")[0] != 0
    visible = box.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "pytest" not in visible
    assert str(Path.cwd()) not in visible


def test_devices_are_the_harmless_ones(box: Box) -> None:
    special = box.sh("find /dev -type b -o -type c").split()
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "net/tun", "fuse"}
    assert {path.removeprefix("/dev/") for path in special if "/pts/" not in path} <= harmless
    box.run(
        "mknod /tmp/disk b 254 0; mknod /tmp/mem c 1 1; mknod /tmp/kvm c 10 232; mknod /tmp/loop c 10 237; mknod /tmp/kmsg c 1 11"
    )
    for name in ("disk", "mem", "kvm", "loop", "kmsg"):
        assert box.run(f"head -c 1 /tmp/{name}")[0] != 0, name


def test_kernel_settings_cannot_be_written(box: Box) -> None:
    before = {name: Path(f"/proc/sys/{name}").read_text() for name in ("kernel/core_pattern", "vm/overcommit_memory")}
    for path in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
        "/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register",
    ):  # fmt: skip
        box.run(f"echo 1 > {path}")
    assert {name: Path(f"/proc/sys/{name}").read_text() for name in before} == before
    for path in ("/proc/kcore", "/dev/mem", "/dev/kmsg", "/proc/kpagecount"):
        assert box.run(f"head -c 4096 {path} | grep -q .")[0] != 0, path


def test_mounts_stay_inside(box: Box) -> None:
    before = _mounts_of_others(box)
    box.sh("mkdir -p /m && touch /m/file")
    for command in (
        "mount -t tmpfs none /m", "mount --bind /proc /m", "mount -t cgroup -o devices none /m", "mount -t sysfs none /m",
        "mount -t debugfs none /m", "mount -t proc none /m", "mount --make-rshared /", "mount -o remount,rw /.sandpit",
        "mount -o remount,rw /sys",
    ):  # fmt: skip
        box.run(command)
    assert _mounts_of_others(box) == before
    assert box.run("touch /.sandpit/file")[0] != 0
    assert box.run("ls /m/vda /m/block/vda /sys/block/vda")[0] != 0


def _mounts_of_others(box: Box) -> set[str]:
    """Mounts of the host and of the sandbox's node; other nodes' come and go."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ", 1)[0] for line in lines if "/sandpit-" not in line or f"/{box.machine.name}/" in line}


def test_new_namespaces_give_nothing(box: Box, runtime: str) -> None:
    status, output = box.run(
        "unshare --user --map-root-user --net --mount sh -c 'ip link 2>/dev/null; ls /proc/1/root/'"
    )
    if runtime == "crun":
        assert status != 0
    assert str(os.getpid()) not in output


def test_host_processes_are_confined(box: Box, runtime: str) -> None:
    pids = box.processes
    assert pids
    for pid in pids:
        fields = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert fields["Seccomp"] == "2", f"process {pid} {fields['Name']} has no system call filter"
        if runtime == "crun":
            assert int(fields["Uid"].split()[0]) >= 0x10000000
            assert int(fields["Gid"].split()[0]) >= 0x10000000


def test_two_sandboxes_share_no_user_on_the_host(create, runtime: str) -> None:  # type: ignore[no-untyped-def]
    if runtime != "crun":
        pytest.skip("gVisor's guests have no users on the host")
    first, second = (Path(f"/proc/{create().first_process}/uid_map").read_text().split()[1] for _ in range(2))
    assert abs(int(first) - int(second)) >= 65536
