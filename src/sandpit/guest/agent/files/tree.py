"""Making, moving and removing trees as root for a user (current-protocol 6.2). Blocking: call it in a thread.

Code in the sandbox may change a tree while we work on it, and may nest it deeper than a path or the stack can be
long: nothing here recurses, and removal goes from directory to directory by descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING

from sandpit.guest.agent.files.tree_copy import copy_tree

if TYPE_CHECKING:
    from sandpit.guest.agent.accounts import Account

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_directories(path: str, owner: Account) -> bool:
    """Make `path` and its missing parents, mode 0755, owned by `owner`. False when it was there already.

    Raises: NotADirectoryError when something else is in the way, OSError.
    """
    missing = []
    current = path
    while not _is_directory(current):
        missing.append(current)
        current = os.path.dirname(current.rstrip("/")) or "/"
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", directory) from None
            continue  # made by somebody else meanwhile, or the path goes through `..`
        os.chown(directory, owner.uid, owner.gid, follow_symlinks=False)
    return bool(missing)


def move(source: str, destination: str, owner: Account) -> None:
    """Rename `source`, also onto another file system. Missing parents of `destination` are made for `owner`.

    Between file systems the copy appears under its name only when it is complete. Raises: OSError.
    """
    os.lstat(source)
    parent, name = os.path.split(destination.rstrip("/"))
    make_directories(parent or "/", owner)
    try:
        os.rename(source, destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    partial = f"{parent}/.{name[:200]}.{secrets.token_hex(8)}"
    try:
        copy_tree(source, partial)
        os.rename(partial, destination)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one that says what went wrong
            remove(partial)
        raise
    remove(source)


def remove(path: str) -> None:
    """Remove a file, a link, or a directory with all that is in it. Missing is fine. Raises: OSError."""
    path = path.rstrip("/")
    if os.path.normpath(path or "/") == "/":
        raise OSError(errno.EINVAL, "the root directory cannot be removed", "/")
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        descriptor = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    _empty(descriptor)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


def _empty(descriptor: int) -> None:
    """Remove everything in an open directory; closes it. Holds one descriptor however deep the tree is."""
    above: list[tuple[str, tuple[int, int]]] = []
    try:
        while True:
            name = _remove_entries(descriptor)
            if name is not None:
                identity = _identity(descriptor)
                try:
                    below = os.open(name, _DIRECTORY, dir_fd=descriptor)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                above.append((name, identity))
                os.close(descriptor)
                descriptor = below
                continue
            if not above:
                return
            name, identity = above.pop()
            parent = os.open("..", _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = parent
            if _identity(descriptor) != identity:
                # Going on would remove things elsewhere.
                raise OSError(errno.EBUSY, "the directory was moved while it was being removed", name)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _remove_entries(descriptor: int) -> str | None:
    """Remove the files and empty directories in a directory; returns the first directory that is not empty."""
    with os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=descriptor)
                    continue
                os.rmdir(entry.name, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return entry.name
    return None


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _is_directory(path: str) -> bool:
    """Whether a directory is at `path`. Raises: NotADirectoryError when something else is."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
    return True
