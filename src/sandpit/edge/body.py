"""Where a body ends in a stream of bytes (RFC 9112, section 6). Bytes pass through as they are, nothing is kept."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

_LINE_LIMIT = 16 * 1024
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:;[^\r\n\0]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\r\n\0]*\r\n")


class BodyError(Exception):
    """The chunked coding is broken: where the body ends cannot be told."""


class Body(Protocol):
    """Reads one message's body."""

    done: bool

    def feed(self, data: bytes, start: int = 0) -> int:
        """The index in `data` behind the last byte of this body. Raises BodyError."""


class SizedBody:
    """A body of a known number of bytes."""

    __slots__ = ("_left", "done")

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0

    def feed(self, data: bytes, start: int = 0) -> int:
        taken = min(self._left, len(data) - start)
        self._left -= taken
        self.done = self._left == 0
        return start + taken


class EndlessBody:
    """A body that lasts until the connection is closed."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes, start: int = 0) -> int:
        return len(data)


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """A chunked body. With `decode`, `pieces` holds the payload that the last `feed` met."""

    __slots__ = ("_decode", "_left", "_line", "_state", "_trailers", "done", "pieces")

    def __init__(self, *, decode: bool = False) -> None:
        self.done = False
        self.pieces: list[bytes] = []
        self._decode = decode
        self._state = _State.SIZE
        self._left = 0
        self._line = b""
        self._trailers = 0

    @property
    def between(self) -> bool:
        """Whether what came so far ends with a complete chunk, or is nothing."""
        return self._state is _State.SIZE and not self._line

    def feed(self, data: bytes, start: int = 0) -> int:
        self.pieces = []
        size = len(data)
        while start < size and not self.done:
            start = self._take(data, start) if self._state is _State.DATA else self._read_line(data, start)
        return start

    def _take(self, data: bytes, start: int) -> int:
        end = min(len(data), start + self._left)
        if self._decode:
            self.pieces.append(data[start:end])
        self._left -= end - start
        if not self._left:
            self._state = _State.DATA_END
        return end

    def _read_line(self, data: bytes, start: int) -> int:
        found = data.find(b"\n", start)
        end = found + 1 if found >= 0 else len(data)
        line = self._line + data[start:end]
        if len(line) > _LINE_LIMIT:
            raise BodyError("a line of the chunked coding is too long")
        if self._state is _State.DATA_END and not b"\r\n".startswith(line):
            raise BodyError("a chunk is longer than its size")
        if found < 0:
            self._line = line
            return end
        self._line = b""
        self._on_line(line)
        return end

    def _on_line(self, line: bytes) -> None:
        if self._state is _State.SIZE:
            match = _SIZE.fullmatch(line)
            if not match:
                raise BodyError("a chunk has no valid size")
            self._left = int(match[1], 16)
            self._state = _State.DATA if self._left else _State.TRAILER
        elif self._state is _State.DATA_END:
            self._state = _State.SIZE
        elif line == b"\r\n":
            self.done = True
        else:
            self._trailers += len(line)
            if self._trailers > _LINE_LIMIT or not _TRAILER.fullmatch(line):
                raise BodyError("a trailer is malformed or too long")
