"""The layers on top of a root file system, as what a sandbox seems to have written in an earlier life.

Making a root file system of a stack of layers means writing all of it, seconds for a gigabyte. When a template adds little to what it is
built on, its sandboxes start from that one's root, and unpack the difference once, before the snapshot is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

from sandpit.lib import partials
from sandpit.protocol.disk import add_entry

OPAQUE = "trusted.overlay.opaque"
DISK = "disk"
_SUFFIX = ".delta"
_HIDDEN = (".disk", ".restore")
"""Names of the runtime's own that are not seen inside (sandpit.guest.stage1)."""
_XATTR = "SCHILY.xattr."


def delta(layers: Sequence[Path], store: Path) -> Path:
    """The file for these layers, bottom first; made if missing. Blocking. Raises: OSError."""
    keys = [layer.parent.name for layer in layers]
    folder = store / (hashlib.sha256("\n".join(["delta", *keys]).encode()).hexdigest()[:24] + _SUFFIX)
    if folder.exists():
        return folder / DISK
    with partials.making(store, folder.name) as work:
        partial = work / "delta"
        partial.mkdir(mode=0o700)
        with (
            (partial / DISK).open("wb") as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in _HIDDEN:
                tar.addfile(_whiteout(name))
            _merge(tar, list(reversed(layers)), "", {})
        folder.with_suffix(f"{_SUFFIX}.json").write_text(json.dumps(keys))
        with contextlib.suppress(OSError):  # ENOTEMPTY: another build has made the same meanwhile
            partial.rename(folder)
    return folder / DISK


def _merge(tar: tarfile.TarFile, folders: Sequence[Path], prefix: str, seen: dict[tuple[int, int], str]) -> None:
    """Write what is in these directories, which are the same one in several layers, topmost first."""
    names = sorted({entry.name for folder in folders for entry in os.scandir(folder)})
    for name in names:
        paths, hides = _visible(folders, name)
        status = paths[0].lstat()
        if stat.S_ISCHR(status.st_mode):
            tar.addfile(_whiteout(prefix + name))
        elif stat.S_ISDIR(status.st_mode):
            info = tarfile.TarInfo(prefix + name)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, stat.S_IMODE(status.st_mode), status.st_mtime
            info.uid, info.gid = status.st_uid, status.st_gid
            info.pax_headers = {f"{_XATTR}{OPAQUE}": "y"} if hides else {}
            tar.addfile(info)
            _merge(tar, paths, f"{prefix}{name}/", seen)
        else:
            add_entry(tar, prefix + name, paths[0], status, seen)


def _visible(folders: Sequence[Path], name: str) -> tuple[list[Path], bool]:
    """What a name stands for: one file, or directories that show through each other; whether those hide what is further below."""
    found: list[Path] = []
    for folder in folders:
        path = folder / name
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(mode):
            return (found, True) if found else ([path], False)
        found.append(path)
        if _opaque(path):
            return found, True
    return found, False


def _opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _whiteout(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 0, 0
    return info
