"""`sandbox.filesystem` (2024) and `sandbox.files` (current): the same files, under two sets of rules.

`filesystem` works as root, as in 2024: every path of the sandbox can be read and written. What it writes in the home or
the working directory belongs to the template's user all the same. It never makes directories on the way.
`files` gives what it writes to the template's user, or the one that is named, and makes directories on the way.
"""

from __future__ import annotations

import builtins
import posixpath
from typing import IO, TYPE_CHECKING, Any

from sandpit.sdk import errors, wire
from sandpit.sdk._async._concurrency import streamed
from sandpit.sdk._async.watcher import AsyncFilesystemWatcher
from sandpit.sdk.models import EntryInfo, FileInfo, FilesystemEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable

    from sandpit.sdk._async.link import Link
    from sandpit.sdk._async.sandbox import AsyncSandbox
    from sandpit.sdk.wire import Json

_ROOT = "root"


class AsyncFilesystemManager:
    """Files by the rules of 2024. Relative paths are below the sandbox's `cwd`, else below the home, as is `~`."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    @property
    def cwd(self) -> str | None:
        """What relative paths are below."""
        return self._sandbox.cwd

    async def read(self, path: str, timeout: float | None = 60) -> str:
        """A file as text; what is no UTF-8 becomes U+FFFD. Raises: FileNotFoundException, FilesystemException."""
        return (await self.read_bytes(path, timeout)).decode(errors="replace")

    async def read_bytes(self, path: str, timeout: float | None = 60) -> bytes:
        """A file's bytes. Raises: FileNotFoundException, FilesystemException, TimeoutException."""
        return await self._sandbox.link.download(self.resolve(path), _ROOT, timeout)

    async def write(self, path: str, content: str, timeout: float | None = 60) -> None:
        """Make a file, or replace its content. Raises: FileNotFoundException: its directory does not exist; FilesystemException."""
        await self.write_bytes(path, content.encode(), timeout)

    async def write_bytes(self, path: str, content: bytes | bytearray, timeout: float | None = 60) -> None:
        """The same with bytes."""
        path = self.resolve(path)
        await self._check_directory(posixpath.dirname(path), path, timeout)
        await self.put(path, bytes(content), timeout)

    async def list(self, path: str, timeout: float | None = 60) -> builtins.list[FileInfo]:
        """The entries of a directory. Raises: FileNotFoundException, FilesystemException: it is none."""
        answer = await self._rpc("ListDir", {"path": self.resolve(path), "depth": 1}, timeout)
        entries = answer.get("entries", ())
        return [
            FileInfo(entry["name"], entry.get("type") == "FILE_TYPE_DIRECTORY" and "symlinkTarget" not in entry)
            for entry in entries
        ]

    async def make_dir(self, path: str, timeout: float | None = 60) -> None:
        """Make a directory and those on the way to it; one that exists already is fine. Raises: FilesystemException."""
        path = self.resolve(path)
        await make_dir(self._sandbox.link, path, self._owner(path), timeout)

    async def remove(self, path: str, timeout: float | None = 60) -> None:
        """Remove a file, or a directory with all that is in it; one that does not exist is fine."""
        await self._rpc("Remove", {"path": self.resolve(path)}, timeout)

    def watch_dir(self, path: str) -> AsyncFilesystemWatcher:
        """A watcher for a directory, without those in it. Add listeners, then `start()` it."""
        return AsyncFilesystemWatcher(self._sandbox.link, self.resolve(path), _ROOT)

    def resolve(self, path: str) -> str:
        """The absolute form of a path."""
        return wire.resolve_path(path, self.cwd)

    async def put(self, path: str, content: Any, timeout: float | None) -> str:
        """Write bytes or an iterable of them at an absolute path; returns it."""
        written = await self._sandbox.link.upload(path, content, self._owner(path), timeout)
        return str(written["path"])

    def _owner(self, path: str) -> str | None:
        own = (wire.HOME, wire.resolve_path("", self.cwd))
        return None if any(wire.is_below(path, directory) for directory in own) else _ROOT

    async def _check_directory(self, directory: str, path: str, timeout: float | None) -> None:
        try:
            await self._rpc("Stat", {"path": directory}, timeout)
        except errors.FileNotFoundException:
            raise errors.FileNotFoundException(
                f"cannot write {path}: the directory {directory} does not exist", "make it first: filesystem.make_dir"
            ) from None

    async def _rpc(self, method: str, message: Json, timeout: float | None) -> Json:
        name = f"filesystem.Filesystem/{method}"
        return await self._sandbox.link.rpc(name, message, errors.FilesystemException, timeout, _ROOT)


async def make_dir(link: Link, path: str, user: str | None, timeout: float | None) -> bool:
    """Make a directory and those on the way to it. False if it exists. Raises: FilesystemException."""
    try:
        await link.rpc("filesystem.Filesystem/MakeDir", {"path": path}, _Refused, timeout, user)
    except _Refused as error:
        if error.code == "already_exists":
            return False
        raise errors.FilesystemException(error.message) from None
    return True


_Refused = errors.RpcException


class AsyncFiles:
    """Files by the rules of the current SDKs. Relative paths are below the home of the user."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    async def read(self, path: str, user: str | None = None, timeout: float | None = 60) -> str:
        """A file as text; what is no UTF-8 becomes U+FFFD. Raises: FileNotFoundException, FilesystemException."""
        return (await self.read_bytes(path, user, timeout)).decode(errors="replace")

    async def read_bytes(self, path: str, user: str | None = None, timeout: float | None = 60) -> bytes:
        """A file's bytes. Raises: FileNotFoundException, FilesystemException, TimeoutException."""
        return await self._sandbox.link.download(path, user, timeout)

    async def read_stream(self, path: str, user: str | None = None, timeout: float | None = 60) -> AsyncIterator[bytes]:
        """A file's bytes in pieces as they come, which must be read to the end. `timeout` is for each piece."""
        return await self._sandbox.link.download_chunks(path, user, timeout)

    async def write(
        self, path: str, data: str | bytes | IO[bytes] | Iterable[bytes] | AsyncIterable[bytes],
        user: str | None = None, timeout: float | None = 60,
    ) -> str:  # fmt: skip
        """Make a file and the directories on the way to it, or replace its content; returns its absolute path.

        `data`: text, bytes, or something that gives pieces of bytes. Raises: NotEnoughSpaceException, FilesystemException.
        """
        content = data.encode() if isinstance(data, str) else streamed(data)
        return str((await self._sandbox.link.upload(path, content, user, timeout))["path"])

    async def list(
        self, path: str, depth: int = 1, user: str | None = None, timeout: float | None = 60
    ) -> builtins.list[EntryInfo]:
        """The entries of a directory, and of those in it down to `depth`. Raises: FileNotFoundException, FilesystemException."""
        answer = await self._rpc("ListDir", {"path": path, "depth": depth}, user, timeout)
        return [wire.entry_info(entry) for entry in answer.get("entries", ())]

    async def exists(self, path: str, user: str | None = None, timeout: float | None = 60) -> bool:
        """Whether there is something at a path; a link to nowhere counts."""
        try:
            await self.get_info(path, user, timeout)
        except errors.FileNotFoundException:
            return False
        return True

    async def get_info(self, path: str, user: str | None = None, timeout: float | None = 60) -> EntryInfo:
        """What there is to know about a file. Raises: FileNotFoundException."""
        return wire.entry_info((await self._rpc("Stat", {"path": path}, user, timeout))["entry"])

    async def make_dir(self, path: str, user: str | None = None, timeout: float | None = 60) -> bool:
        """Make a directory and those on the way to it. False if it exists already. Raises: FilesystemException."""
        return await make_dir(self._sandbox.link, path, user, timeout)

    async def remove(self, path: str, user: str | None = None, timeout: float | None = 60) -> None:
        """Remove a file, or a directory with all that is in it; one that does not exist is fine."""
        await self._rpc("Remove", {"path": path}, user, timeout)

    async def rename(self, old: str, new: str, user: str | None = None, timeout: float | None = 60) -> EntryInfo:
        """Move a file or directory. Raises: FileNotFoundException, FilesystemException."""
        return wire.entry_info((await self._rpc("Move", {"source": old, "destination": new}, user, timeout))["entry"])

    async def watch_dir(
        self, path: str, on_event: Callable[[FilesystemEvent], Any], recursive: bool = False,
        user: str | None = None, timeout: float | None = 60,
    ) -> AsyncFilesystemWatcher:  # fmt: skip
        """Have a function called with what changes in a directory, until the watcher is stopped. Raises: FileNotFoundException."""
        watcher = AsyncFilesystemWatcher(self._sandbox.link, path, user, recursive=recursive)
        watcher.add_event_listener(on_event)
        await watcher.start(timeout)
        return watcher

    async def _rpc(self, method: str, message: Json, user: str | None, timeout: float | None) -> Json:
        name = f"filesystem.Filesystem/{method}"
        return await self._sandbox.link.rpc(name, message, errors.FilesystemException, timeout, user)
