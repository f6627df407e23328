"""COPY: files out of an archive of the build context to their place, as Dockerfiles mean it."""

from __future__ import annotations

import glob
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from sandpit.guest.template.accounts import account_of, make_directory
from sandpit.guest.template.errors import StepFailed


def copy(archive: str, source: str, target: str, workdir: str, user: str, owner: str, mode: str, add: bool) -> None:
    """Copy what `source` names in the archive to `target`; the archive is removed.

    A directory gives its content. `target` is a directory if it ends with `/`, if it is one, or if there are several sources.
    `owner` is `user[:group]`, empty for the build's user; `mode` octal or empty. `add` unpacks archives. Raises: StepFailed, OSError.
    """
    account = account_of(owner or user)
    bits = _bits(mode)
    place = Path(workdir, target)
    if not Path(workdir).is_dir():
        make_directory(workdir, user)
    with tempfile.TemporaryDirectory(dir="/run/sandpit") as scratch:
        context = Path(scratch)
        with tarfile.open(archive, "r:*") as tar:
            tar.extractall(context, filter=_plain)  # noqa: S202 - filtered
        Path(archive).unlink()
        found = _matches(context, source)
        into = target.endswith(("/", "/.")) or target in ("", ".") or len(found) > 1 or place.is_dir()
        for path in found:
            if add and path.is_file() and tarfile.is_tarfile(path):
                _unpack(path, place)
                continue
            _own(path, account.uid, account.gid, bits)
            if path.is_dir() and not path.is_symlink():
                _merge(path, place, account.uid, account.gid)
            else:
                destination = place / path.name if into else place
                _parents(destination.parent, account.uid, account.gid)
                _replace(path, destination)


def _plain(member: tarfile.TarInfo, _path: str) -> tarfile.TarInfo | None:
    """Everything but devices. Nothing that is outside the scratch directory can be harmed: this is a sandbox of the archive's owner."""
    if member.isdev():
        return None
    name = os.path.normpath(member.name).lstrip("/")
    if name.startswith(".."):
        raise StepFailed(f"the archive has a path that leads out of it: {member.name}")
    return member.replace(name=name, deep=False)


def _bits(mode: str) -> int | None:
    if not mode:
        return None
    try:
        return int(mode, 8)
    except ValueError:
        raise StepFailed(f"'{mode}' is no octal mode") from None


def _matches(context: Path, source: str) -> list[Path]:
    relative = os.path.normpath(source.lstrip("/") or ".")
    exact = context / relative
    if os.path.lexists(exact):
        return [exact]
    found = sorted(
        glob.glob(  # noqa: PTH207 - with hidden files
            relative, root_dir=context, recursive=True, include_hidden=True
        )
    )
    if not found:
        raise StepFailed(f"'{source}' is not in the uploaded files")
    # a parent brings its children
    return [context / name for name in found if not any(name.startswith(f"{other}/") for other in found)]


def _unpack(archive: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:*") as tar:
        tar.extractall(place, filter="tar", numeric_owner=True)


def _own(path: Path, uid: int, gid: int, bits: int | None) -> None:
    everything = [path]
    if path.is_dir() and not path.is_symlink():
        everything += [Path(folder, name) for folder, names, files in os.walk(path) for name in (*names, *files)]
    for one in everything:
        os.chown(one, uid, gid, follow_symlinks=False)
        if bits is not None and not one.is_symlink():
            one.chmod(bits)


def _parents(directory: Path, uid: int, gid: int) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for made in reversed(missing):
        made.mkdir()
        os.chown(made, uid, gid)


def _merge(source: Path, place: Path, uid: int, gid: int) -> None:
    """The content of a directory into another, which may be there already."""
    _parents(place, uid, gid)
    if not place.is_dir():
        raise StepFailed(f"a directory cannot be copied to '{place}': that is a file")
    for entry in sorted(source.iterdir()):
        destination = place / entry.name
        if entry.is_dir() and not entry.is_symlink() and destination.is_dir():
            _merge(entry, destination, uid, gid)
            shutil.copystat(entry, destination)
            os.chown(destination, entry.stat().st_uid, entry.stat().st_gid)
        else:
            _replace(entry, destination)


def _replace(path: Path, destination: Path) -> None:
    if destination.is_dir() and not destination.is_symlink():
        raise StepFailed(f"a file cannot replace the directory '{destination}'")
    destination.unlink(missing_ok=True)
    shutil.move(path, destination)
