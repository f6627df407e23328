"""Copying a tree to another file system, with owners, modes, times and attributes. Blocking."""

from __future__ import annotations

import errno
import os
import shutil
import stat


def copy_tree(source: str, destination: str) -> None:
    """Copy a file, link or directory tree. Special files (devices, sockets) are refused. Raises: OSError."""
    directories: list[tuple[str, str]] = []
    todo = [(source, destination)]
    while todo:
        origin, copy = todo.pop()
        mode = os.lstat(origin).st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(copy, 0o700)
            directories.append((origin, copy))
            todo.extend((f"{origin}/{name}", f"{copy}/{name}") for name in os.listdir(origin))
            continue
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(origin), copy)
        elif stat.S_ISREG(mode):
            shutil.copyfile(origin, copy, follow_symlinks=False)
        elif stat.S_ISFIFO(mode):
            os.mkfifo(copy)
        else:
            raise OSError(errno.EOPNOTSUPP, "devices and sockets cannot be moved to another file system", origin)
        _copy_status(origin, copy)
    for origin, copy in reversed(directories):  # last, since filling them changed their times
        _copy_status(origin, copy)


def _copy_status(origin: str, copy: str) -> None:
    status = os.lstat(origin)
    # The owner first: changing it clears setuid bits, which copystat sets.
    os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)
    shutil.copystat(origin, copy, follow_symlinks=False)
