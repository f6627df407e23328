"""Files in the making: each in a directory that its maker has locked, so that what a crash left can be told from work that goes on."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandpit.lib import mounts

_NEW = ".new"


@contextmanager
def making(store: Path, name: str) -> Iterator[Path]:
    """An empty directory on the file system of `store`, removed with all that is in it, mounts too, at the end. Raises: OSError."""
    store.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=_NEW, dir=store))
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield work
    finally:
        remove_tree(work)
        os.close(lock)


def sweep(store: Path) -> None:
    """Remove what makers left that are dead. Raises: OSError."""
    for path in store.glob(f"*{_NEW}"):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            continue  # somebody is at work in it
        finally:
            os.close(lock)


def remove_tree(path: Path) -> None:
    """Remove a tree that may have mounts in it, which are detached first: nothing outside the tree is touched."""
    prefix = str(path.resolve())  # as the kernel lists mounts
    for point in sorted(mounts.mount_points(), reverse=True):
        if point == prefix or point.startswith(f"{prefix}/"):
            mounts.unmount(Path(point))
    shutil.rmtree(path, ignore_errors=True)
