"""The first step inside a gVisor sandbox: put the writable root file system together and move into it.

Found at start (docs/architecture.md, the guest): `/` the template's root, read-only; `/.disk` an empty file system whose size is the
sandbox's disk limit; `/.sandpit` the guest closure; `/proc`, `/sys`, `/dev`; for a sandbox that lived before,
`/.restore/disk`, which is what it has written (sandpit.protocol.disk). Left behind: an overlay of both as `/`, entered as a chroot;
between the two a layer of what the kernel's faults need (`remedies`).
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from sandpit.guest.stage1 import remedies
from sandpit.protocol.disk import DESCRIPTOR, Upper, unpack

_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MNT_DETACH = 0x2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DISK = Path("/.disk")
_ROOT = _DISK / "root"
_REMEDIES = _DISK / "remedies"
_RESTORE = Path("/.restore/disk")
_HIDDEN = (".disk", ".restore")
_KEPT = (".sandpit", "proc", "sys", "dev")

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> None:
    """Make the overlay the root of this process. Raises: OSError: the sandbox must not start half-made."""
    for name in ("upper", "work", "root"):
        (_DISK / name).mkdir(mode=0o755)
    _fill(_DISK / "upper")
    opened = os.open(_DISK / "upper", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    Upper.descriptor = os.dup2(opened, DESCRIPTOR, inheritable=False)
    os.close(opened)
    lower = f"{_REMEDIES}:/" if remedies.correct_close_range(_REMEDIES) else "/"
    _mount("overlay", _ROOT, "overlay", 0, f"lowerdir={lower},upperdir={_DISK}/upper,workdir={_DISK}/work")
    for name in _KEPT:
        target = _ROOT / name
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            target.unlink()
        target.mkdir(mode=0o755, exist_ok=True)
        _mount(f"/{name}", target, None, _MS_BIND | _MS_REC, None)
    shared = _ROOT / "dev" / "shm"
    shared.mkdir(mode=0o1777, exist_ok=True)
    _mount("shm", shared, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=1777,size={_memory_kib() // 2}k")
    os.chdir(_ROOT)
    # Stacking the old root on the new one and detaching it needs no directory of the image (pivot_root(2), notes).
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT[os.uname().machine]), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "detach the old root")
    os.chdir("/")
    for name, mode in (("tmp", 0o1777), ("run", 0o755), ("root", 0o700)):
        path = Path("/", name)
        if not path.is_symlink() and not path.exists():
            path.mkdir()
            path.chmod(mode)
    _refuse_user_namespaces()
    remedies.spare_text()


def _refuse_user_namespaces() -> None:
    """Go on in a copy of the root, which is a chroot: from there the kernel makes no user namespace (EPERM, clone(2)).

    gVisor asks whether a process has CAP_NET_RAW and CAP_NET_ADMIN in its own user namespace, not in that of the network: in a new one,
    any user could read all traffic of the sandbox, tokens included, and change its addresses. crun's system call filter refuses it too.
    """
    _mount(
        "/", Path("/sys"), None, _MS_BIND | _MS_REC, None
    )  # a directory for sure; from inside, it is the real /sys again
    os.chroot("/sys")
    os.chdir("/")


def _fill(upper: Path) -> None:
    """What an earlier life has written; of a first one, whiteouts: names that are not seen in the new root."""
    if _RESTORE.exists():
        with _RESTORE.open("rb") as stream:
            unpack(stream, upper)
        return
    for name in _HIDDEN:
        os.mknod(upper / name, stat.S_IFCHR)


def _memory_kib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:"))


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str | None) -> None:
    status = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _check(status, f"mount {target}")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
