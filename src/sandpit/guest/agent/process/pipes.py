"""The agent's ends of a process's pipes and terminals, on the event loop."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class OutputPipe:
    """Reads a descriptor to its end, in chunks, and owns it.

    After the end of the process a background child may hold the other end open. `finish` then bounds what is still
    delivered; what comes later is read and dropped, so that the child gets no SIGPIPE.
    """

    def __init__(
        self, fd: int, chunk_bytes: int, deliver: Callable[[bytes], None], on_drained: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._chunk_bytes = chunk_bytes
        self._deliver = deliver
        self._on_drained = on_drained
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._reading = False
        self._remaining: int | None = None
        self.drained = False
        """Nothing more will be delivered."""
        self.flow(True)

    def flow(self, reading: bool) -> None:
        """Read, or stop reading until told otherwise. A drained pipe goes on being read."""
        reading = self._open and (reading or self.drained)
        if reading == self._reading:
            return
        self._reading = reading
        if reading:
            self._loop.add_reader(self._fd, self._read)
        else:
            self._loop.remove_reader(self._fd)

    def finish(self) -> None:
        """Deliver what is in the pipe now, then no more."""
        if self.drained or self._remaining is not None:
            return
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        self._remaining = waiting[0]
        if not self._remaining:
            self._drain()

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, self._chunk_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # EIO: every process has closed the terminal
            chunk = b""
        if not chunk:
            self._close()
        elif not self.drained:
            self._deliver(chunk)
            if self._remaining is not None:
                self._remaining -= len(chunk)
                if self._remaining <= 0:
                    self._drain()

    def _close(self) -> None:
        self._open = False
        self.flow(False)
        os.close(self._fd)
        self._drain()

    def _drain(self) -> None:
        if self.drained:
            return
        self.drained = True
        self.flow(True)
        self._on_drained()


class InputPipe:
    """Writes to a descriptor in the order of the calls, and owns it."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._writable: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Write all of `data`, waiting while the process does not read.

        Raises: BrokenPipeError when nothing reads any more.
        """
        async with self._lock:
            view = memoryview(data)
            while view:
                if self._fd is None:
                    raise BrokenPipeError
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await self._wait(self._fd)
                except OSError:  # EPIPE, or EIO of a terminal that was hung up
                    raise BrokenPipeError from None

    @property
    def fd(self) -> int | None:
        """The descriptor, None when closed."""
        return self._fd

    async def end(self) -> None:
        """Close after what is being written."""
        async with self._lock:
            self.close()

    def close(self) -> None:
        """End of input for the process. A write that waits fails."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        self._loop.remove_writer(fd)
        os.close(fd)
        self._wake()

    async def _wait(self, fd: int) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(fd, self._wake)
        try:
            await self._writable
        finally:
            self._writable = None
            if self._fd is not None:
                self._loop.remove_writer(fd)

    def _wake(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
