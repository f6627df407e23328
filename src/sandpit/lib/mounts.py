"""Mounts by system call: binds (read-only, idmapped), overlays, lazy unmount.

Constants are those of linux/mount.h and linux/fcntl.h; the calls have no binding in the standard library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MNT_DETACH = 0x2

_SYS_MOVE_MOUNT = 429
_SYS_OPEN_TREE = 428
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 0x1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOUNT_ATTR_RDONLY = 0x1
_MOUNT_ATTR_NOSUID = 0x2
_MOUNT_ATTR_NODEV = 0x4
_MOUNT_ATTR_IDMAP = 0x100000
_GUARDED = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV
"""Of every mount that users of the host could come across."""

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount(source: str, target: Path, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises: OSError."""
    if _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode()
    ):
        _fail(f"mount {kind or 'bind'} on {target}")


def unmount(target: Path) -> None:
    """Detach a mount; one that is not there is no error. Raises: OSError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) and ctypes.get_errno() not in (2, 22):
        _fail(f"unmount {target}")


def is_mount(path: Path) -> bool:
    """Whether something is mounted exactly here."""
    return str(path) in mount_points()


def mount_points() -> set[str]:
    """All mount points of this mount namespace (proc(5), mountinfo field 5)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split(" ")[4].encode().decode("unicode_escape") for line in lines}


def overlay(target: Path, lowers: Sequence[Path]) -> None:
    """Mount an overlay for the host to look at; `lowers` are given bottom first. Raises: OSError."""
    options = "lowerdir=" + ":".join(str(path) for path in reversed(lowers))
    mount("overlay", target, "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, options)


def bind(source: Path, target: Path, *, read_only: bool = True) -> None:
    """Bind `source` at `target`, without set-user-ID programs and devices, and read-only unless told otherwise. Raises: OSError.

    That holds for everybody who reaches it there or through a bind of it: the mount itself says so, not a runtime's configuration. Root in
    a gVisor sandbox can lift a "ro" that only the sandbox's own kernel knows of (`mount -o remount,rw`), and its files are opened on the
    host directly.
    """
    _bind(source, target, _MountAttr(attr_set=_GUARDED | (_MOUNT_ATTR_RDONLY if read_only else 0)))


def bind_idmapped(source: Path, target: Path, base: int, count: int = 65536, *, read_only: bool = True) -> None:
    """Bind `source` so that owner 0..count-1 on disk appears as base..base+count-1. Raises: OSError.

    Read-only for all that sandboxes share: removing what a crash left of one must not reach into its layers. Where it can be written
    to, the host's root has a number of its own on disk, `count`: an overlay's mounter makes files too.
    """
    userns = _user_namespace(f"0 {base} {count}" + ("" if read_only else f"\n{count} 0 1"))
    attributes = _GUARDED | _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0)
    try:
        _bind(source, target, _MountAttr(attr_set=attributes, userns_fd=userns))
    finally:
        os.close(userns)


def _bind(source: Path, target: Path, attributes: _MountAttr) -> None:
    """Bind with attributes that hold from the mount's first moment on."""
    tree = _syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC)
    try:
        size = ctypes.sizeof(attributes)
        _syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _user_namespace(mapping: str) -> int:
    """A descriptor of a user namespace with a mapping (user_namespaces(7)), held by nobody else."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        # Only async-signal-safe work here: the parent may have threads.
        os.close(go[1])  # the parent's alone, so that its death ends this process too
        status = _libc.unshare(0x10000000)  # CLONE_NEWUSER
        os.write(ready[1], b"y" if status == 0 else b"n")
        os.read(go[0], 1)
        os._exit(0)
    try:
        if os.read(ready[0], 1) != b"y":
            raise OSError("this kernel gives no user namespaces: sysctl user.max_user_namespaces must be above 0")
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{kind}").write_text(mapping)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for fd in (*ready, *go):
            os.close(fd)


def _syscall(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        _fail(f"system call {number}")
    return result


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
