"""Watching a directory of the sandbox."""

from __future__ import annotations

import posixpath
import time
from typing import TYPE_CHECKING, Any

from sandpit.sdk import errors, wire
from sandpit.sdk._async._concurrency import Worker
from sandpit.sdk._async.running import tell
from sandpit.sdk.models import FilesystemEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._async.http import Stream
    from sandpit.sdk._async.link import Link
    from sandpit.sdk.wire import Json

    Listener = Callable[[FilesystemEvent], Any]


class AsyncFilesystemWatcher:
    """Tells listeners what changes below a directory, from `start` to `stop`."""

    def __init__(self, link: Link, path: str, user: str | None, *, recursive: bool = False) -> None:
        self._link, self._path, self._user, self._recursive = link, path, user, recursive
        self._listeners: list[Listener] = []
        self._worker: Worker | None = None
        self._listening = False

    @property
    def path(self) -> str:
        """The directory, absolute."""
        return self._path

    async def start(self, timeout: float | None = 60) -> None:
        """Begin; changes from now on are told. Raises: FileNotFoundException, FilesystemException, TimeoutException."""
        if self._worker is not None:
            return
        message = {"path": self._path, "recursive": self._recursive, "includeEntry": True}
        raises = errors.FilesystemException
        _, stream = await self._link.open_rpc("filesystem.Filesystem/WatchDir", message, raises, timeout, self._user)
        self._listening = True
        self._link.background.add(self)
        self._worker = Worker(lambda: self._run(stream), f"sandpit watch {self._path}", stream.interrupt)

    async def stop(self) -> None:
        """End, and forget the listeners."""
        self._listeners.clear()
        self._listening = False
        worker, self._worker = self._worker, None
        self._link.background.discard(self)
        if worker is not None:
            await worker.stop()

    async def __aenter__(self) -> AsyncFilesystemWatcher:
        await self.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    def add_event_listener(self, listener: Listener) -> Callable[[], None]:
        """Have a function called with each event; returns a function that ends this."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    async def _run(self, stream: Stream) -> None:
        try:
            while self._listening and (message := await stream.receive()) is not None:
                if (event := self._event(message.get("filesystem", {}))) is not None:
                    for listener in list(self._listeners):
                        await tell(self._link, listener, event)
            self._link.check_end(stream, errors.FilesystemException)
        except errors.SandboxException as error:
            if self._listening and self._link.is_open:  # else it was stopped
                self._link.logger.warning("%s is watched no more: %s", self._path, await self._link.why_broken(error))
        finally:
            await stream.aclose()

    def _event(self, raw: Json) -> FilesystemEvent | None:
        operation = wire.operation(raw.get("type", ""))
        if operation is None:
            return None
        name = raw.get("name", "")
        is_dir = raw.get("entry", {}).get("type") == "FILE_TYPE_DIRECTORY"
        return FilesystemEvent(posixpath.join(self._path, name), name, operation, time.time_ns(), is_dir)
