"""Watchers: queues of file system events, for streams and for polling clients (current-protocol 6.2)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING

from sandpit.guest.agent.files.watch_tree import FilesystemEvent, WatchedTree

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_WATCHERS = 100
"""Of one sandbox; the kernel's usual limit is 128 inotify instances (fs.inotify.max_user_instances)."""
MAX_QUEUED_EVENTS = 100_000
# Between two readings of the kernel's queue: bounds what a busy directory costs, far below what a client notices.
_PAUSE_S = 0.001


class TooManyWatchersError(Exception):
    """The sandbox's watchers are used up."""


class EventsLostError(Exception):
    """More happened than could be queued: what a client knows about the directory is no longer complete."""


class UnknownWatcherError(LookupError):
    """No watcher with this id."""


class Watcher:
    """One watcher. The kernel's queue is read as soon as something is in it, so that it does not overflow and new
    directories are followed at once. `_lock` protects the tree and the queue, which threads work on.
    """

    def __init__(self, path: str, *, recursive: bool, include_entry: bool) -> None:
        self._path, self._recursive, self._include_entry = path, recursive, include_entry
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._tree: WatchedTree | None = None
        self._closed = False
        self._queue: deque[FilesystemEvent] = deque()
        self._lost = False
        self._arrived = asyncio.Event()
        self._reading: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start to watch; a recursive watch first walks the tree. Raises: OSError, TooManyDirectoriesError."""
        await asyncio.to_thread(self._open)
        self._arm()

    async def wait(self) -> None:
        """Wait until something happened."""
        await self._arrived.wait()

    async def take(self) -> list[FilesystemEvent]:
        """Everything that happened before this call and was not yet taken. Raises: EventsLostError, once."""
        self._arrived.clear()
        return await asyncio.to_thread(self._take)

    def close(self) -> None:
        """Stop watching. A thread that works on the tree ends it itself."""
        if self._tree is not None:
            self._loop.remove_reader(self._tree.descriptor)
        self._closed = True
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _open(self) -> None:
        with self._exclusive():
            self._tree = WatchedTree(
                self._path, recursive=self._recursive, include_entry=self._include_entry, emit=self._emit
            )

    def _take(self) -> list[FilesystemEvent]:
        with self._exclusive():
            self._drain()
            if self._lost:
                self._lost = False
                self._queue.clear()
                raise EventsLostError("too much happened at once and events were lost; look at the directory again")
            events = list(self._queue)
            self._queue.clear()
            return events

    def _read(self) -> None:
        with self._exclusive():
            self._drain()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock; end the tree afterwards if `close` came meanwhile and found the lock taken."""
        try:
            with self._lock:
                yield
        finally:
            if self._closed:
                with self._lock:
                    self._end()

    def _drain(self) -> None:
        if self._tree is None:
            return
        self._tree.drain()
        self._lost = self._lost or self._tree.overflowed
        self._tree.overflowed = False

    def _emit(self, event: FilesystemEvent) -> None:
        last = self._queue[-1] if self._queue else None
        if last is not None and last["name"] == event["name"] and last["type"] == event["type"]:
            self._queue[-1] = event
        elif len(self._queue) < MAX_QUEUED_EVENTS:
            self._queue.append(event)
        else:
            self._lost = True

    def _end(self) -> None:
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()

    def _arm(self) -> None:
        if not self._closed and self._tree is not None:
            self._loop.add_reader(self._tree.descriptor, self._readable)

    def _readable(self) -> None:
        if self._tree is None:
            return
        self._loop.remove_reader(self._tree.descriptor)
        self._reading = self._loop.run_in_executor(None, self._read)
        self._reading.add_done_callback(self._was_read)

    def _was_read(self, reading: asyncio.Future[None]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is not None:
            self._lost = True
        self._arrived.set()
        if not self._loop.is_closed():
            self._loop.call_later(_PAUSE_S, self._arm)


class WatcherTable:
    """All watchers of the sandbox; those of polling clients by their id."""

    def __init__(self) -> None:
        self._open = 0
        self._polled: dict[str, Watcher] = {}

    async def open(self, path: str, *, recursive: bool, include_entry: bool) -> Watcher:
        """A watcher that the caller closes with `close`. Raises: TooManyWatchersError and what `start` raises."""
        if self._open >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watchers are open in this sandbox; stop one first")
        self._open += 1
        watcher = Watcher(path, recursive=recursive, include_entry=include_entry)
        try:
            await watcher.start()
        except BaseException:
            self.close(watcher)
            raise
        return watcher

    def close(self, watcher: Watcher) -> None:
        """Stop a watcher that `open` gave."""
        self._open -= 1
        watcher.close()

    def keep(self, watcher: Watcher) -> str:
        """Keep a watcher for a polling client; returns its id."""
        name = "w" + secrets.token_hex(8)
        self._polled[name] = watcher
        return name

    def find(self, name: str) -> Watcher:
        """Raises: UnknownWatcherError."""
        try:
            return self._polled[name]
        except KeyError:
            raise UnknownWatcherError(f"watcher '{name}' not found") from None

    def drop(self, name: str) -> None:
        """Stop a kept watcher. Raises: UnknownWatcherError."""
        watcher = self.find(name)
        del self._polled[name]
        self.close(watcher)
