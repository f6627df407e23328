"""The API's connections: uvicorn's, with bounds on how much a stranger may send, how slowly, and how often at once.

uvicorn itself collects a head of any length, waits for its end for ever, and takes any number of requests ahead of their answers.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandpit.lib.peers import Peers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Set

MAX_CONNECTIONS = 2000
CLIENT_CONNECTIONS = 500
"""Of one client address (of one /64 in IPv6), as long as the operator sets nothing else."""
MAX_HEAD_BYTES = 64 * 1024
"""Of a head; also of trailers, or of one chunk's header, which the parser collects as well."""
HEAD_SECONDS = 20.0
"""From a head's first byte (or the connection's start) to its last."""
BODY_SECONDS = 60.0
"""For all of a body, but an upload's."""
UPLOADS = "/template-files"
"""Below this path archives are uploaded: they may take longer, as long as they come on."""
UPLOAD_SECONDS = 3600.0
"""For all of an upload."""
UPLOAD_WINDOW_SECONDS = 60.0
UPLOAD_WINDOW_BYTES = 60 * 1024
"""What at least must arrive within each window while the server is reading: 1 KiB/s, which no client's network falls below."""
STALL_SECONDS = 60.0
"""How long a client may take nothing of an answer that is larger than what the kernel holds for it."""
MAX_PIPELINED = 64
"""Requests that wait for the answers before theirs. uvicorn makes tens of kilobytes of objects out of each."""
_CLOCK_SECONDS = 0.01
"""How much too early a timer may fire."""
_SLICE = 8 * 1024
"""Bytes parsed between two looks at how many requests they made."""


class BoundedConnection(HttpToolsProtocol):
    """One connection of the API's port."""

    peers = Peers(total=MAX_CONNECTIONS, each=CLIENT_CONNECTIONS)
    """All connections of the port; `bounded` makes a class for another one."""
    gateway_ports: Set[int] = frozenset()
    """Local ports of the gateway's connections: the gateway counts whose they are."""
    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _collected = 0
    """Bytes since the last request's end or the last piece of a body: what the parser may be holding."""
    _received = 0
    """Bytes of the body of an upload."""
    _until = 0.0
    """When an upload must have ended, by the loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_time(HEAD_SECONDS)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer and own and peer[0] == own[0] and peer[1] in self.gateway_ports:
            return
        address = peer[0] if peer else ""
        room = self.peers.has_room(address)
        self.peers.add(self, address)
        if not room:
            message = "the API has too many connections, from this address or in all: try again later"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, message)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """End at once: another client needs the place."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        self._forget_stall()
        self.peers.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            if self.transport.is_closing():
                return
            self._parse(data[start : start + _SLICE])

    def _parse(self, data: bytes) -> None:
        if self._timer is None:
            self._limit_time(HEAD_SECONDS)
        self._collected += len(data)
        super().data_received(data)
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
        elif self._collected > MAX_HEAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head is larger than {MAX_HEAD_BYTES} bytes"
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_stall()

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def on_headers_complete(self) -> None:
        self._limit_time(BODY_SECONDS)
        super().on_headers_complete()
        if self.parser.get_method() == b"PUT" and self.scope["raw_path"].startswith(f"{UPLOADS}/".encode()):
            self._received = 0
            self._until = self.loop.time() + UPLOAD_SECONDS
            self._watch_upload(0)

    def on_chunk_header(self) -> None:
        """The parser's word that a chunk begins."""
        self._collected = 0

    def on_body(self, body: bytes) -> None:
        self._collected = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._collected = 0
        self._forget_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP: in the API's own form."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _limit_time(self, seconds: float) -> None:
        self._forget_timer()
        self._timer = self.loop.call_later(
            seconds, self._refuse, HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {seconds:g} s"
        )

    def _watch_upload(self, before: int) -> None:
        """Begin a window, at whose end enough must have come since `before` bytes; a refused upload has the time of any other body."""
        self._forget_timer()
        left = max(self._until - self.loop.time(), 0)
        self._timer = self.loop.call_later(min(UPLOAD_WINDOW_SECONDS, left), self._judge_upload, before)

    def _judge_upload(self, before: int) -> None:
        if self.loop.time() >= self._until - _CLOCK_SECONDS:
            self._refuse_upload(f"the upload did not end within {UPLOAD_SECONDS:g} s")
        elif self.cycle is None or self.cycle.response_complete:
            self._refuse_upload("the upload was answered, and goes on")
        elif self._received - before < UPLOAD_WINDOW_BYTES and not self.flow.read_paused:
            self._refuse_upload(
                f"the upload came on by less than {UPLOAD_WINDOW_BYTES >> 10} KiB in {UPLOAD_WINDOW_SECONDS:g} s",
            )
        else:
            self._watch_upload(self._received)

    def _refuse_upload(self, message: str) -> None:
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, message)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer for the whole connection and end it; while an answer is under way, just end it.

        A request whose body has not come whole is answered here, before its handler does, who hears that the body ends.
        """
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body or self.pipeline:
                self.transport.abort()
                return
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        body = json.dumps({"code": status, "message": message}).encode()
        head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            head += "retry-after: 1\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def bounded(peers: Peers, gateway_ports: Set[int]) -> type[BoundedConnection]:
    """The class of one port's connections, as uvicorn takes it."""
    return type("PortConnection", (BoundedConnection,), {"peers": peers, "gateway_ports": gateway_ports})
