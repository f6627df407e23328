"""What programs need because of faults of a kernel, found by trying it: a release of gVisor without a fault gets no remedy.

**Page faults** (`spare_text`). gVisor up to 2024 does not learn from the host whether an instruction was read, or data. It takes a fault
for an instruction's only if it is at the program counter. An instruction that lies across a page border faults behind it: the page is
then mapped as data, and the program dies by SIGSEGV. That happens where the first page was written to, and the second not yet read in
this process: after a fork, in libraries whose system calls gVisor has replaced by jumps in the parent (systrap's patching; glibc's
`__open64_nocancel` in Debian 12 lies across such a border, so that a child that opens a directory dies). Without replaced
calls no page of a program is written to. They are replaced only where the table for the jumps, 20 KiB, may be locked in memory
(RLIMIT_MEMLOCK, mlock(2)). A lower soft limit, which all processes inherit, turns that off; who raises it turns it on again.

**close_range** (`correct_close_range`). It refuses descriptors above INT_MAX, and with them "all from this one on" as glibc's callers
write it. A library of the guest closure that every program of glibc loads first (`/etc/ld.so.preload`) says INT_MAX instead. Other C
libraries do not read that file; static programs do not either.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import stat
from pathlib import Path

LIBRARY = "/.sandpit/preload/close_range.so"
"""Part of the guest closure in every sandbox, so that a file system that names it is right under any kernel."""
PRELOAD = Path("/etc/ld.so.preload")
LOCKED_BYTES = 16 << 10
"""The soft limit: less than the table takes."""

_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_PRELOAD_BYTES = 64 << 10
"""Of an image's own file: ld.so(8) expects a few names."""
_ERROR_CODE = 40 + 19 * 8
"""In ucontext_t of x86-64: gregs[REG_ERR]. Not zero when a page fault was one of writing."""
_SA_SIGINFO = 4
_UINT_MAX = ctypes.c_uint(2**32 - 1)


class _Action(ctypes.Structure):
    """struct sigaction of glibc."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def spare_text() -> None:
    """Have the kernel replace no system calls of the programs that this process starts, if it handles page faults wrongly."""
    if os.uname().machine == "x86_64" and not _tells_page_faults_apart():
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (LOCKED_BYTES, hard))


def correct_close_range(layer: Path) -> bool:
    """Fill a layer that goes on top of the image's root, if there is need; returns whether there is. Raises: OSError."""
    if not Path(LIBRARY).exists() or not _LOADER.exists() or _closes_all():
        return False
    directory = PRELOAD.parent.lstat()
    if not stat.S_ISDIR(directory.st_mode):
        return False
    target = layer / PRELOAD.relative_to("/")
    target.parent.mkdir(parents=True)
    os.chown(target.parent, directory.st_uid, directory.st_gid)
    target.parent.chmod(stat.S_IMODE(directory.st_mode))
    layer.chmod(0o755)
    target.write_bytes(_named_libraries())
    target.chmod(0o644)
    os.utime(target.parent, ns=(directory.st_atime_ns, directory.st_mtime_ns))
    return True


def _named_libraries() -> bytes:
    """The image's own, if it has any, and ours."""
    own, names = LIBRARY.encode(), b""
    if PRELOAD.is_file() and PRELOAD.stat().st_size <= _PRELOAD_BYTES:
        names = PRELOAD.read_bytes()
    if own in names.split():
        return names
    return (names.rstrip(b"\n") + b"\n" if names else b"") + own + b"\n"


def _closes_all() -> bool:
    """Whether close_range() takes the largest number for its end. It is called with no descriptors in between: nothing is closed."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        status = libc.close_range(_UINT_MAX, _UINT_MAX, 0)
    except AttributeError:  # the closure's C library is older than the call: no program of its time makes it
        return True
    return status == 0 or ctypes.get_errno() != errno.EINVAL


def _tells_page_faults_apart() -> bool:
    """Whether the kernel says of a page fault what was tried. One that tells programs knows it itself."""
    libc = ctypes.PyDLL(None)  # the fault is between two of our own instructions: nothing else may run
    seen: list[int] = []
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        byte = ctypes.c_char.from_buffer(page)
        start, size = ctypes.c_void_p(ctypes.addressof(byte)), mmap.PAGESIZE

        def note(_number: int, _info: int, context: int) -> None:
            seen.append(ctypes.c_uint64.from_address(context + _ERROR_CODE).value)
            libc.mprotect(start, size, mmap.PROT_READ | mmap.PROT_WRITE)

        handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(note)
        action = _Action(ctypes.cast(handler, ctypes.c_void_p).value, flags=_SA_SIGINFO)
        former = _Action()
        libc.mprotect(start, size, mmap.PROT_READ)
        libc.sigaction(signal.SIGSEGV, ctypes.byref(action), ctypes.byref(former))
        try:
            ctypes.memset(start, 1, 1)
        finally:
            libc.sigaction(signal.SIGSEGV, ctypes.byref(former), None)
        del byte
    return seen != [0]
