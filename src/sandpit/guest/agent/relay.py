"""The gateway's way to servers that listen on the sandbox's loopback only (architecture, Relay protocol)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sandpit.guest.agent.control.state import AgentState

_LINE = re.compile(rb"([1-9][0-9]{0,4}) ([0-9a-f]{64})\n")
_LONGEST_LINE = 71
_LINE_TIMEOUT_S = 10.0
_DIAL_TIMEOUT_S = 10.0


class Relay(asyncio.Protocol):
    """One connection from the edge: a port number and the edge's secret, an answer of one byte, then bytes both ways."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._line = b""
        self._dial: asyncio.Task[None] | None = None
        self._server: _ServerSide | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if peer is None or peer[0] != self._state.gateway:
            self.transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(_LINE_TIMEOUT_S, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._server is not None:
            self._server.transport.write(data)
            return
        self._line += data
        if self._dial is None and (b"\n" in self._line or len(self._line) > _LONGEST_LINE):
            self._parse()

    def eof_received(self) -> bool:
        if self._server is not None:
            self._server.transport.write_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._dial is not None:
            self._dial.cancel()
        if self._server is not None:
            self._server.transport.close()

    def pause_writing(self) -> None:
        if self._server is not None:
            self._server.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._server is not None:
            self._server.transport.resume_reading()

    def _parse(self) -> None:
        match, keys = _LINE.match(self._line), self._state.control
        if match is None or keys is None or not keys.opens_relay(match[2]):
            self.transport.abort()  # somebody else's: no word about which ports are open
            return
        if int(match[1]) > 65535:
            self._refuse()
            return
        self._line = self._line[match.end() :]
        if self._timer is not None:
            self._timer.cancel()
        self.transport.pause_reading()  # until there is somebody to pass it on to
        self._dial = asyncio.get_running_loop().create_task(self._connect(int(match[1])))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        for host in ("127.0.0.1", "::1"):
            try:
                async with asyncio.timeout(_DIAL_TIMEOUT_S):
                    _, server = await loop.create_connection(lambda: _ServerSide(self.transport), host, port)
            except OSError:  # refused, no IPv6, or TimeoutError
                continue
            self._server = server
            server.transport.write(self._line)
            self._line = b""
            self.transport.resume_reading()
            return
        self._refuse()

    def _refuse(self) -> None:
        self.transport.write(b"-")
        self.transport.close()


class _ServerSide(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._client.write(b"+")  # before anything the server says

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def eof_received(self) -> bool:
        self._client.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()
