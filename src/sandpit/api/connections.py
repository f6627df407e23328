"""The API's connections: uvicorn's, with bounds on how much a stranger may send, how slowly, and how often at once.

uvicorn itself collects a head of any length, waits for its end for ever, and takes any number of requests ahead of their answers.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

MAX_CONNECTIONS = 2000
MAX_HEAD_BYTES = 64 * 1024
"""Of a head; also of trailers, or of one chunk's header, which the parser collects as well."""
HEAD_SECONDS = 20.0
"""From a head's first byte (or the connection's start) to its last."""
BODY_SECONDS = 60.0
MAX_PIPELINED = 64
"""Requests that wait for the answers before theirs. uvicorn makes tens of kilobytes of objects out of each."""
_SLICE = 8 * 1024
"""Bytes parsed between two looks at how many requests they made."""


class BoundedConnection(HttpToolsProtocol):
    """One connection of the API's port."""

    _timer: asyncio.TimerHandle | None = None
    _collected = 0
    """Bytes since the last request's end or the last piece of a body: what the parser may be holding."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_time(HEAD_SECONDS)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the API has too many connections: try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
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

    def on_headers_complete(self) -> None:
        self._limit_time(BODY_SECONDS)
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """The parser's word that a chunk begins."""
        self._collected = 0

    def on_body(self, body: bytes) -> None:
        self._collected = 0
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

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer for the whole connection and end it; while an answer is under way, just end it."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = json.dumps({"code": status, "message": message}).encode()
        head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()
