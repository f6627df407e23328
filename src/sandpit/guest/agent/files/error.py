"""Errors of `/files`: an HTTP status and a text (current-protocol 7.1, 7.2)."""

from __future__ import annotations

import errno

_STATUS = {
    errno.ENOENT: 404,
    errno.ENOTDIR: 400,
    errno.EISDIR: 400,
    errno.EINVAL: 400,
    errno.ELOOP: 400,
    errno.ENAMETOOLONG: 400,
    errno.ENXIO: 400,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EROFS: 403,
    errno.EFBIG: 413,
    errno.ENOSPC: 507,
    errno.EDQUOT: 507,
}


class FileError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def from_os(error: OSError, path: str, what: str) -> FileError:
    """The answer to a failed system call; `what` completes "error ...", for instance `writing`."""
    status = _STATUS.get(error.errno or 0, 500)
    if status == 507:
        return FileError(status, f"error {what} '{path}': not enough disk space available ({error.strerror})")
    return FileError(status, f"error {what} '{path}': {error.strerror or error}")


def missing(path: str) -> FileError:
    """The answer for a path that does not exist, word by word the official server's."""
    return FileError(404, f"path '{path}' does not exist")


def not_a_file(path: str, *, directory: bool) -> FileError:
    """The answer for a path that is something else than a regular file."""
    return FileError(400, f"path '{path}' is {'a directory' if directory else 'not a regular file'}")
