"""The client's side: one connection, its requests one after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

from .body import BodyError
from .exchange import Exchange
from .refusals import Refusal, render
from .routing import route
from .wire import WireError, find_head_end, parse_request

if TYPE_CHECKING:
    from .server import Edge
    from .wire import Request

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, zero seconds: closing then sends RST, which nobody takes for the end of a body."""


class Client(asyncio.Protocol):
    """One accepted connection. `deadline` (event loop time) is when it is too slow."""

    transport: asyncio.Transport

    def __init__(self, edge: Edge, scheme: bytes) -> None:
        self.edge = edge
        self.scheme = scheme
        self.peer = b""
        self.congested = False
        self.keep = True
        self.deadline = 0.0
        self.stalled = float("inf")
        """Since when the client has taken too little of what waits for it (event loop time)."""
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._searched = 0
        self._reading = True
        self._ending = False
        self._give_up = 0.0
        self._closed = False

    # What the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        limits = self.edge.limits
        self.transport.set_write_buffer_limits(high=limits.buffer_bytes)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0].partition("%")[0].encode() if peer else b"unknown"
        self.deadline = self.edge.loop.time() + limits.head_time
        if (refusal := self.edge.admit(self)) is not None:
            self.refuse(refusal, None, request_done=False)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._exchange is None

    def drop(self) -> None:
        """End at once: another client needs the place."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        exchange = self._exchange
        if exchange is not None and not self._buffer and exchange.accepting:
            self._send_on(exchange, data)
            return
        self._buffer = self._buffer + data if self._buffer else data
        if exchange is None:
            self._next()
        else:
            self.update_reading()

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is not None and exchange.tunnel:
            exchange.client_eof()
            return True
        # A client that shuts only one direction is not told from one that left; to run for nobody is worse.
        if exchange is not None:
            self._exchange = None
            exchange.cancel()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.edge.release(self)
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    def pause_writing(self) -> None:
        self.congested = True
        self.stalled = self.edge.loop.time()
        if self._exchange is not None:
            self._exchange.client_writable()

    def resume_writing(self) -> None:
        self.congested = False
        self.stalled = float("inf")
        if self._exchange is not None:
            self._exchange.client_writable()
        else:
            self._next()

    # Reading

    def _next(self) -> None:
        """Begin the next request in the buffer, if it is there."""
        while self._exchange is None and self._buffer and not (self.congested or self._ending or self._closed):
            request = None
            try:
                end = find_head_end(self._buffer, self._searched, self.edge.limits.head_bytes)
                if not end:
                    self._wait_for_head()
                    return
                head, self._buffer, self._searched = self._buffer[:end], self._buffer[end:], 0
                request = parse_request(head)
                exchange = Exchange(self, request, route(request, self.edge.directory, has_api=self.edge.has_api))
                self.edge.register(exchange)
            except WireError as error:
                self.refuse(Refusal(error.status, error.message), request, request_done=False)
            except Refusal as refusal:
                self.refuse(refusal, request, request_done=request is not None and request.body() is None)
            else:
                self._exchange = exchange
                self.deadline = float("inf")
                exchange.start()
        self.update_reading()

    def _wait_for_head(self) -> None:
        if not self._searched:
            self.deadline = self.edge.loop.time() + self.edge.limits.head_time
        self._searched = len(self._buffer)
        self.update_reading()

    def pump(self) -> None:
        """Give the exchange what waits in the buffer."""
        exchange = self._exchange
        if exchange is not None and self._buffer and exchange.accepting:
            data, self._buffer = self._buffer, b""
            self._send_on(exchange, data)
        self.update_reading()

    def _send_on(self, exchange: Exchange, data: bytes) -> None:
        try:
            end = exchange.client_data(data)
        except BodyError as error:
            exchange.cancel()
            if exchange.answering:
                self.hang_up()
            else:
                self.refuse(Refusal(400, f"Malformed HTTP: {error}"), exchange.request, request_done=False)
            return
        if end < len(data):
            self._buffer = data[end:]
            self.update_reading()

    def update_reading(self) -> None:
        """Read only while somebody takes what is read."""
        exchange = self._exchange
        full = exchange is not None and (exchange.congested or len(self._buffer) >= self.edge.limits.head_bytes)
        wanted = not full and not (exchange is None and self.congested)
        if wanted == self._reading or self._closed or self.transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    # Writing and ending

    def write(self, data: bytes) -> None:
        if not self._closed:
            self.transport.write(data)

    def write_eof(self) -> bool:
        """Tell the client that the server sends no more in a tunnel; false when the transport cannot."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            return True
        return False

    def refuse(self, refusal: Refusal, request: Request | None, *, request_done: bool) -> None:
        """Answer a request in the sandbox's stead."""
        self._exchange = None
        self.keep = request is not None and request_done and request.http11 and request.keep_alive
        self.write(render(refusal, request, close=not self.keep))
        self.answered(request_done=request_done)

    def answered(self, *, request_done: bool) -> None:
        """The answer is written: go on to the next request, or end."""
        self._exchange = None
        now = self.edge.loop.time()
        if not request_done:
            self._linger(now)
        elif not self.keep:
            self.hang_up()
        else:
            self.deadline = now + self.edge.limits.idle_time
            if self._buffer:
                self.edge.loop.call_soon(self._next)
            elif not self._reading:
                self.update_reading()

    def _linger(self, now: float) -> None:
        """Drop what the client still sends: closing right away would reset it before it reads the answer."""
        self._end(now)
        self._buffer = b""
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self.update_reading()

    def _end(self, now: float) -> None:
        """There will be no further request."""
        self._ending = True
        self.deadline = now + self.edge.limits.linger_time
        self._give_up = now + self.edge.limits.idle_time

    def hang_up(self) -> None:
        """Close once everything is written."""
        self._exchange = None
        self._end(self.edge.loop.time())
        self.transport.close()

    def reset(self) -> None:
        """End at once in a way that cannot be taken for the end of an answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        self._ending = True
        if not self.transport.is_closing():  # else the descriptor may be another connection's by now
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def expire(self) -> None:
        """The deadline is over."""
        now = self.edge.loop.time()
        if self._ending and self.transport.get_write_buffer_size() and now < self._give_up:
            self.deadline = now + self.edge.limits.linger_time  # a slow reader of an answer's last bytes
            return
        if self._buffer and self._exchange is None and not self._ending and not self.transport.is_closing():
            self.refuse(Refusal(408, "The request head did not arrive in time"), None, request_done=False)
        else:
            self.transport.abort()
