"""HTTP connections to the agent and to the interpreter: those of code in the sandbox are few, each with limits of size and time.

Every user of the sandbox can connect, and what a connection holds is memory of the process that serves it: the first process's, whose
end is the sandbox's. The edge and the node come from the gateway's address, which nobody in the sandbox has; the edge limits what it
passes on, so their connections are neither counted nor looked at.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

GATEWAY = "169.254.0.22"
MAX_CONNECTIONS = 128
"""To a port, of code in the sandbox. More are closed at once."""
MAX_HEAD_BYTES = 64 << 10
"""Of a request's head, or of anything else that is no body: trailers, a chunk's extensions. Parsed, it may take a few times as much."""
MAX_HEADERS = 256
"""In a request, trailers included: the parsed form of an empty one takes thirty times its bytes."""
MAX_PIPELINED = 8
"""Requests of a connection that wait for an answer to an earlier one."""
HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a later request, to the end of its head."""
IDLE_SECONDS = 60
"""Between an answer and the next request."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 31\r\nconnection: close\r\n\r\nthe request's head is too large"
)


class Connections(ServerState):
    """What the connections to one port have in common."""

    def __init__(self, gateway: str = GATEWAY) -> None:
        """Peers of other addresses than `gateway` are limited."""
        super().__init__()
        self._gateway = gateway
        self._limited: set[asyncio.BaseTransport] = set()

    def limits(self, transport: asyncio.BaseTransport) -> bool:
        """Whether the peer is code in the sandbox. A unix socket's peer has no address: its directory says who may connect."""
        peer = transport.get_extra_info("peername")
        return isinstance(peer, tuple) and peer[0] != self._gateway

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        """Count a limited connection; False when there are too many."""
        if len(self._limited) >= MAX_CONNECTIONS:
            return False
        self._limited.add(transport)
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """No longer count a connection, if it was."""
        self._limited.discard(transport)


class Connection(HttpToolsProtocol):
    """A connection of the edge or of the node; one of anybody else becomes a limited one. Its server state must be `Connections`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not cast("Connections", self.server_state).limits(transport):
            super().connection_made(transport)
            return
        limited = _Limited(self.config, self.server_state, self.app_state)
        transport.set_protocol(limited)
        limited.connection_made(transport)


class _Limited(HttpToolsProtocol):
    server_state: Connections
    _timer: asyncio.TimerHandle | None = None
    _pending = 0
    """Bytes that came since the last ones that were of use."""
    _useful = False
    _too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive = IDLE_SECONDS
        if self.server_state.enter(transport):
            self._await_head()
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.leave(self.transport)
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # In slices: one read may be several times as long as what may be pending.
        for start in range(0, len(data), MAX_HEAD_BYTES):
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
            self._parse(data[start : start + MAX_HEAD_BYTES])

    def _parse(self, data: bytes) -> None:
        self._useful = False
        super().data_received(data)
        self._pending = 0 if self._useful else self._pending + len(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        if not self._too_large:
            super().send_400_response(msg)
            return
        self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at a time")  # to the parser, which fails
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._too_large = len(self.headers) >= MAX_HEADERS
        if self._too_large:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._useful = True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._useful = True
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        """The connection counts until it ends, which uvicorn's protocol for websockets hears of from now on."""
        transport = self.transport
        super().handle_websocket_upgrade()
        websocket = cast("asyncio.Protocol", transport.get_protocol())
        lost = websocket.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            self.server_state.leave(transport)
            lost(exc)

        websocket.connection_lost = connection_lost  # type: ignore[method-assign]

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
