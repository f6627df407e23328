"""All that a sandbox has written, as one tar stream, and back.

It is the upper directory of the sandbox's overlay as it is: whiteouts are character devices 0/0, replaced directories carry
`trusted.overlay.opaque` (Documentation/filesystems/overlayfs.rst). Extended attributes travel as `SCHILY.xattr.*` records (star(5)).
Only sandboxes read and write these streams, never the host.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_XATTR = "SCHILY.xattr."
_COPY = 1 << 20
DESCRIPTOR = 100
"""Where the first process keeps `Upper` open: a fixed number, so that another process finds it there (sandpit.guest.export)."""


class Upper:
    """The upper directory of this sandbox's root. Reached through a descriptor: it is no longer below the root."""

    descriptor: int | None = None
    """Set by the first process before it moves into the overlay; None outside gVisor."""


def pack(root: Path, stream: IO[bytes]) -> None:
    """Write everything below `root`. Raises: OSError, when it changes too much meanwhile or `stream` ends."""
    seen: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY) as tar:
        for name, path, status in _walk(root, ""):
            add_entry(tar, name, path, status, seen)


def _walk(directory: Path, prefix: str) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Parents before their children."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        name, path = prefix + entry.name, directory / entry.name
        yield name, path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(path, f"{name}/")


def add_entry(
    tar: tarfile.TarFile, name: str, path: Path, status: os.stat_result, seen: dict[tuple[int, int], str]
) -> None:
    """Write one file as it is; `seen` remembers names of files that have several. Raises: OSError."""
    if stat.S_ISSOCK(status.st_mode):
        return  # nobody listens on it after a boot
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = status.st_mtime_ns / 1e9
    info.pax_headers = _attributes(path)
    kind = stat.S_IFMT(status.st_mode)
    if status.st_nlink > 1 and kind != stat.S_IFDIR:
        first = seen.setdefault((status.st_dev, status.st_ino), name)
        if first != name:
            info.type, info.linkname = tarfile.LNKTYPE, first
            tar.addfile(info)
            return
    if kind == stat.S_IFREG:
        _add_file(tar, info, path)
        return
    if kind == stat.S_IFLNK:
        info.linkname = str(path.readlink())
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    info.type = {
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFBLK: tarfile.BLKTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
    }[kind]
    tar.addfile(info)


def _attributes(path: Path) -> dict[str, str]:
    try:
        keys = os.listxattr(path, follow_symlinks=False)
        values = {key: os.getxattr(path, key, follow_symlinks=False) for key in keys}
    except OSError:
        return {}  # a kind of file that has none
    return {_XATTR + key: value.decode("utf-8", "surrogateescape") for key, value in values.items()}


def _add_file(tar: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        info.size = os.fstat(descriptor).st_size
        tar.addfile(info, file)  # one that shrinks meanwhile is an error, the rest of one that grows is left out


def unpack(stream: IO[bytes], root: Path) -> None:
    """Make what `pack` has read below `root`, which is empty. Raises: OSError, tarfile.TarError."""
    directories: list[tuple[Path, float]] = []
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_COPY) as tar:
        for member in tar:
            path = _beneath(root, member.name)
            if member.islnk():
                path.hardlink_to(_beneath(root, member.linkname))
                continue
            tar.extract(member, root, numeric_owner=True, filter="fully_trusted")
            for key, value in member.pax_headers.items():
                if key.startswith(_XATTR):
                    os.setxattr(
                        path,
                        key.removeprefix(_XATTR),
                        value.encode("utf-8", "surrogateescape"),
                        follow_symlinks=False,
                    )
            if member.isdir():
                directories.append((path, member.mtime))
    for path, mtime in reversed(directories):  # writing into them has changed it
        os.utime(path, (mtime, mtime))


def _beneath(root: Path, name: str) -> Path:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise tarfile.TarError(f"{name!r} leads out of the disk")
    return root / name
