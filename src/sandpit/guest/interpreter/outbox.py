"""What a cell produced and its client has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque

LIMIT = 1 << 20
"""Bytes that may wait for a slow client before the kernel is made to wait too."""


class Outbox:
    """Lines on their way from the kernel to one client: bounded, so that a client that does not read costs little."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether `put` would wait."""
        return self._size > self._limit and not self._closed

    async def put(self, line: bytes) -> None:
        """Add a line, then wait while too much is unread. Does nothing once the outbox is closed."""
        self.put_nowait(line)
        while self.full:
            self._emptied.clear()
            await self._emptied.wait()

    def put_nowait(self, line: bytes) -> None:
        """Add a line without waiting: for the few small ones that end a cell."""
        if self._closed:
            return
        self._lines.append(line)
        self._size += len(line)
        self._filled.set()

    async def take(self) -> bytes:
        """Everything that is there, waiting for the first line; `b""` after the end."""
        while not self._lines:
            if self._closed:
                return b""
            self._filled.clear()
            await self._filled.wait()
        taken = self._lines.popleft() if len(self._lines) == 1 else b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        self._emptied.set()
        return taken

    def close(self) -> None:
        """No more lines; those that are there can still be taken."""
        self._closed = True
        self._filled.set()
        self._emptied.set()

    def discard(self) -> None:
        """Nobody will read: drop what is there and all that comes."""
        self._lines.clear()
        self._size = 0
        self.close()
