"""Watching a directory, or a whole tree, and turning kernel events into the protocol's (current-protocol 6.2).

Blocking: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.files import inotify
from sandpit.guest.agent.files.entries import describe, printable
from sandpit.guest.agent.files.inotify import Event, Inotify

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DIRECTORIES = 100_000
"""Directories of one recursive watch: each costs memory in the kernel."""

_CONTENT = (
    inotify.IN_CREATE
    | inotify.IN_MODIFY
    | inotify.IN_ATTRIB
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_ONLYDIR
)
_ROOT = _CONTENT | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF
_CREATE, _WRITE, _REMOVE, _RENAME, _CHMOD = (
    "EVENT_TYPE_CREATE",
    "EVENT_TYPE_WRITE",
    "EVENT_TYPE_REMOVE",
    "EVENT_TYPE_RENAME",
    "EVENT_TYPE_CHMOD",
)
# In the order in which one kernel event's types are told.
_TYPES = (
    (inotify.IN_CREATE | inotify.IN_MOVED_TO, _CREATE),
    (inotify.IN_MOVED_FROM | inotify.IN_MOVE_SELF, _RENAME),
    (inotify.IN_ATTRIB, _CHMOD),
    (inotify.IN_MODIFY, _WRITE),
    (inotify.IN_DELETE | inotify.IN_DELETE_SELF, _REMOVE),
)
_WITH_ENTRY = frozenset({_CREATE, _WRITE, _CHMOD})

FilesystemEvent = dict[str, Any]


class TooManyDirectoriesError(Exception):
    """A recursive watch would need more kernel watches than there are."""


class WatchedTree:
    """The kernel side of one watcher. Not safe for threads: the caller locks."""

    def __init__(self, root: str, *, recursive: bool, include_entry: bool, emit: Callable[[FilesystemEvent], None]):
        """Start to watch. `emit` gets the events. Raises: OSError, TooManyDirectoriesError."""
        self.overflowed = False
        """Events were lost: the kernel's queue overflowed or a new directory could not be watched."""
        self._root = root.rstrip("/") or "/"
        self._recursive = recursive
        self._include_entry = include_entry
        self._emit = emit
        self._inotify = Inotify()
        self._paths: dict[int, str] = {}
        self._announced: set[tuple[int, str]] = set()
        self._leaving: dict[int, str] = {}
        try:
            self._paths[self._inotify.add(self._root, _ROOT)] = ""
            if recursive:
                self._watch_below("", announce=False)
        except BaseException:
            self._inotify.close()
            raise

    @property
    def descriptor(self) -> int:
        """Readable when there are events."""
        return int(self._inotify.descriptor)

    def drain(self) -> None:
        """Emit what is in the kernel's queue now, not what a busy writer adds meanwhile."""
        announced, leaving = set(self._announced), set(self._leaving)
        left = self._inotify.queued()
        while left > 0:
            events, size = self._inotify.read()
            if not events:
                break
            left -= size
            for event in events:
                self._handle(event)
        if not self._inotify.queued():
            announced, leaving = set(self._announced), set(self._leaving)
        # What belongs to these has been read by now, or never comes.
        self._announced -= announced
        for cookie in leaving & self._leaving.keys():
            self._forget(self._leaving.pop(cookie))

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def _handle(self, event: Event) -> None:
        if event.mask & inotify.IN_Q_OVERFLOW:
            self.overflowed = True
            return
        directory = self._paths.get(event.watch)
        if directory is None:
            return
        if event.mask & inotify.IN_IGNORED:
            del self._paths[event.watch]
            return
        if not event.name and directory:
            return  # the parent's watch tells this too
        path = f"{directory}/{event.name}" if directory else event.name
        announced = event.mask & inotify.IN_CREATE and (event.watch, event.name) in self._announced
        if not announced:
            self._tell(event.mask, path)
        if self._recursive and event.mask & inotify.IN_ISDIR and event.name and not announced:
            self._follow(event, path)

    def _tell(self, mask: int, path: str) -> None:
        for bits, kind in _TYPES:
            if not mask & bits:
                continue
            told: FilesystemEvent = {"name": printable(path or "."), "type": kind}
            if self._include_entry and kind in _WITH_ENTRY:
                with contextlib.suppress(OSError):  # gone again: the event stands without it
                    told["entry"] = describe(self._absolute(path))
            self._emit(told)

    def _follow(self, event: Event, path: str) -> None:
        """Keep up with a directory that appeared, moved or left."""
        if event.mask & inotify.IN_MOVED_FROM:
            self._leaving[event.cookie] = path
        elif event.mask & inotify.IN_MOVED_TO and event.cookie in self._leaving:
            self._rename(self._leaving.pop(event.cookie), path)
        elif event.mask & (inotify.IN_CREATE | inotify.IN_MOVED_TO):
            try:
                self._watch_below(path, announce=bool(event.mask & inotify.IN_CREATE), itself=True)
            except (OSError, TooManyDirectoriesError):
                self.overflowed = True

    def _watch_below(self, path: str, *, announce: bool, itself: bool = False) -> None:
        """Watch the directories below `path`, with `announce` telling what was in them before they were watched."""
        todo = [path]
        while todo:
            current = todo.pop()
            watch = self._add(current) if current != path or itself else -1
            if watch is None:
                continue
            for name, mode, size in _children(self._absolute(current)):
                child = f"{current}/{name}" if current else name
                if stat.S_ISDIR(mode):
                    todo.append(child)
                if announce:
                    self._announced.add((watch, name))
                    written = stat.S_ISREG(mode) and size
                    self._tell(inotify.IN_CREATE | (inotify.IN_MODIFY if written else 0), child)

    def _add(self, path: str) -> int | None:
        """Watch one more directory. None when it is gone."""
        if len(self._paths) >= MAX_DIRECTORIES:
            raise TooManyDirectoriesError(f"more than {MAX_DIRECTORIES} directories; watch a smaller tree")
        try:
            watch = self._inotify.add(self._absolute(path), _CONTENT | inotify.IN_DONT_FOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP):
                return None
            if error.errno == errno.ENOSPC:
                raise TooManyDirectoriesError(
                    "the kernel has no watches left (fs.inotify.max_user_watches); watch a smaller tree"
                ) from None
            raise
        self._paths[watch] = path
        return watch

    def _rename(self, old: str, new: str) -> None:
        for watch, path in self._paths.items():
            if path == old or path.startswith(old + "/"):
                self._paths[watch] = new + path[len(old) :]

    def _forget(self, gone: str) -> None:
        for watch, path in list(self._paths.items()):
            if path == gone or path.startswith(gone + "/"):
                self._inotify.remove(watch)
                del self._paths[watch]

    def _absolute(self, path: str) -> str:
        return os.path.join(self._root, path) if path else self._root


def _children(directory: str) -> list[tuple[str, int, int]]:
    """Name, mode and size of what is in a directory, in order; nothing when it is gone."""
    found = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((entry.name, status.st_mode, status.st_size))
    except OSError:
        return []
    return sorted(found)
