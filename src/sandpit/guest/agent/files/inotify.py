"""Linux's inotify, through libc: the standard library has no binding (inotify(7))."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from dataclasses import dataclass

IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000
IN_DONT_FOLLOW = 0x02000000
IN_ISDIR = 0x40000000

_BUFFER_BYTES = 64 << 10
_EVENT = struct.Struct("iIII")
_COUNT = struct.Struct("i")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Event:
    """One kernel event. `name` is empty when it is about the watched directory itself."""

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One inotify instance. Not safe for threads: the caller locks."""

    def __init__(self) -> None:
        """Raises: OSError EMFILE when the user has no instances left."""
        self.descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise _error()

    def add(self, path: str, mask: int) -> int:
        """Watch a path; returns the watch's number. Raises: OSError, ENOSPC when the user has no watches left."""
        watch: int = _libc.inotify_add_watch(self.descriptor, os.fsencode(path), mask)
        if watch < 0:
            raise _error(path)
        return watch

    def remove(self, watch: int) -> None:
        """Stop a watch; one that ended on its own is fine."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def queued(self) -> int:
        """How many bytes of events are in the kernel's queue."""
        return int(_COUNT.unpack(fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(_COUNT.size)))[0])

    def read(self) -> tuple[list[Event], int]:
        """Events from the kernel's queue, up to one buffer, and how many bytes they were; none when it is empty."""
        try:
            data = os.read(self.descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return [], 0
        events = []
        offset = 0
        while offset < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            events.append(Event(watch, mask, cookie, os.fsdecode(name)))
        return events, len(data)

    def close(self) -> None:
        """End all watches."""
        os.close(self.descriptor)


def _error(path: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
