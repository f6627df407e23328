"""Files that uploads write to (current-protocol 7.2). Blocking: call it in a thread."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandpit.guest.agent.files import metadata, tree
from sandpit.guest.agent.files.entries import base_name, printable
from sandpit.guest.agent.files.error import FileError, from_os, not_a_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.agent.accounts import Account

_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_ATTEMPTS = 8


@dataclass(slots=True)
class Target:
    """One file that is being written. Ended by `finish` or `abort`."""

    path: str
    user_metadata: Mapping[str, str]
    _descriptor: int = -1
    _created: bool = False
    _emptied: bool = False
    identity: tuple[int, int] = field(default=(0, 0))
    """Device and inode."""

    @classmethod
    def open(cls, path: str, owner: Account, user_metadata: Mapping[str, str], expected: int = 0) -> Target:
        """Create or truncate `path` for `owner`, with its parents. `expected` bytes must fit on the disk.

        An existing file keeps its place and mode. Raises: FileError.
        """
        target = cls(path, user_metadata)
        try:
            tree.make_directories(os.path.dirname(path) or "/", owner)
            target._open()
            target._prepare(owner, expected)
        except metadata.MetadataUnsupportedError as error:
            target.abort()
            raise FileError(501, str(error)) from None
        except OSError as error:
            target.abort()
            raise from_os(error, path, "opening") from None
        except BaseException:
            target.abort()
            raise
        return target

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises: FileError, 507 when the disk is full."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise from_os(error, self.path, "writing") from None

    def finish(self) -> dict[str, object]:
        """Close the file; returns its item of the answer. Raises: FileError."""
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.close(descriptor)  # some file systems tell only here that a write failed
        except OSError as error:
            raise from_os(error, self.path, "writing") from None
        item: dict[str, object] = {
            "name": printable(base_name(self.path)),
            "path": printable(self.path),
            "type": "file",
        }
        if self.user_metadata:
            item["metadata"] = dict(self.user_metadata)
        return item

    def abort(self) -> None:
        """Give up: half a file must not pass for a whole one.

        A file that this upload created is removed; one that was there has lost its content already, and is left empty.
        """
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):  # whatever ended the upload is the error that counts
            if self._created and _identity(os.lstat(self.path)) == self.identity:
                os.unlink(self.path)
            elif not self._created and self._emptied:
                os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def _open(self) -> None:
        """Open the file, and nothing but a regular file.

        First without O_CREAT: in a sticky directory the kernel refuses root that flag for the files of others
        (fs.protected_regular). O_EXCL tells whether the file is ours to remove.
        """
        for _ in range(_OPEN_ATTEMPTS):
            try:
                check_regular(self.path, os.stat(self.path))
                self._descriptor = os.open(self.path, _FLAGS)
                break
            except FileNotFoundError:
                self._create()
                if self._descriptor >= 0:
                    break
        else:
            raise FileError(409, f"path '{self.path}' keeps being removed and made anew by somebody else")
        status = os.fstat(self._descriptor)
        check_regular(self.path, status)  # again: the path may lead elsewhere by now
        self.identity = _identity(status)

    def _create(self) -> None:
        # O_EXCL does not follow a link that leads to nothing; the file is made where it leads.
        path = os.path.realpath(self.path) if os.path.islink(self.path) else self.path
        with contextlib.suppress(FileExistsError):  # somebody was faster: open theirs
            self._descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
            self._created = True

    def _prepare(self, owner: Account, expected: int) -> None:
        status = os.fstat(self._descriptor)
        space = os.fstatvfs(self._descriptor)
        if space.f_blocks and expected > space.f_bfree * space.f_frsize + status.st_blocks * 512:
            # Before the old content is gone.
            raise FileError(507, f"error writing '{self.path}': not enough disk space available for {expected} bytes")
        if status.st_size:
            os.ftruncate(self._descriptor, 0)
        self._emptied = True
        os.fchown(self._descriptor, owner.uid, owner.gid)
        metadata.replace(self._descriptor, self.user_metadata)


def check_regular(path: str, status: os.stat_result) -> None:
    """Raises: FileError unless it may be written to."""
    # What /proc shows as regular files are levers of the kernel, /proc/self/mem this process's memory.
    if not stat.S_ISREG(status.st_mode) or status.st_dev == _proc_device():
        raise not_a_file(path, directory=stat.S_ISDIR(status.st_mode))


def _proc_device() -> int | None:
    """The device number of /proc; None where there is none of its own."""
    try:
        device = os.stat("/proc/self/stat").st_dev
        return device if device != os.stat("/").st_dev else None
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
