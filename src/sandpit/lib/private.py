"""What Sandpit keeps on disk is its owner's alone.

A server runs with a umask that gives others nothing. What needs other modes, because sandboxes see it, is made below directories that
only their owner can enter: `guarded` sees to that, for what earlier releases left open as well.

Others may pass through (mode 0711, they can list and read nothing): the data directory and its `tls`, for the certificates that clients
of this machine need; `build`, where skopeo works as a user without rights; the run directory and its `stage`, which is empty and where a
user namespace's root finds what is mounted for it alone (`node.runtime.crun_stage`).

Imports nothing but the standard library.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PASSABLE = frozenset({"tls", "build", "stage"})
_PUBLIC = "tls"
_OTHERS = 0o077
_SHARED = 0o022


def hide() -> None:
    """Make nothing from now on that others can read."""
    os.umask(_OTHERS)


@contextmanager
def contents() -> Iterator[None]:
    """Make what sandboxes will see, with the usual modes. Holds for the whole process: for its start, before others make files."""
    before = os.umask(_SHARED)
    try:
        yield
    finally:
        os.umask(before)


def guarded(directory: Path) -> None:
    """Make a data or run directory if it is missing, and take away what others could do in it. Raises: OSError.

    Whoever made it stricter is left alone.
    """
    if not directory.exists():
        passable(directory)
    _restrict(directory, 0o711)
    for entry in directory.iterdir():
        try:
            kind = entry.stat().st_mode
            if stat.S_ISDIR(kind):
                _restrict(entry, 0o711 if entry.name in _PASSABLE else 0o700)
            elif not entry.is_symlink():
                _restrict(entry, 0o600)
        except FileNotFoundError:
            continue  # it has gone meanwhile, or leads nowhere
    if (directory / _PUBLIC).is_dir():
        _guard_certificates(directory / _PUBLIC)


def passable(directory: Path) -> Path:
    """A directory that others can pass through, and read nothing in; made if it is missing. Raises: OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)  # whatever the umask
    return directory


def private(directory: Path) -> Path:
    """A directory below one that is guarded, made if it is missing, for the owner alone. Raises: OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _restrict(directory, 0o700)
    return directory


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, from its first byte on. Raises: OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def replace_private(path: Path, text: str) -> None:
    """The same, durably: a crash, of the machine too, leaves the old file or the new one. Raises: OSError."""
    temporary = path.with_name(f"{path.name}.new")
    write_private(temporary, text)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(path)


def _guard_certificates(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _restrict(path, 0o711 if path.is_dir() else 0o600 if path.suffix == ".key" else 0o644)


def _restrict(path: Path, mode: int) -> None:
    found = stat.S_IMODE(path.stat().st_mode)
    if found & ~mode:
        path.chmod(found & mode)
