"""Asking the host's own name servers: one socket for each question, so that port and identifier cannot be guessed (RFC 5452)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from sandpit.node.network import dnswire
from sandpit.node.network.dnswire import Query

_SERVER_SECONDS = 4.0
"""For one server; the caller bounds the whole."""
_MAX_SERVERS = 3
"""As resolv.conf(5) has it."""
_MAX_STRAY = 16
"""Messages on our socket that answer something else, after which a server is given up: somebody is guessing."""
_PORT = 53
_NEXT_SERVER = frozenset({dnswire.SERVFAIL, dnswire.NOTIMP, dnswire.REFUSED})


def resolvers() -> list[str]:
    """The host's name servers (resolv.conf(5))."""
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [address for address in found if ":" not in address] or ["127.0.0.1"]


async def ask(query: Query, *, tcp: bool, servers: Callable[[], Sequence[str]]) -> bytes | None:
    """The first useful answer of a name server to `query`, as it came; None when there is none."""
    last = None
    for server in list(servers())[:_MAX_SERVERS]:
        try:
            async with asyncio.timeout(_SERVER_SECONDS):
                found = await (_by_tcp if tcp else _by_udp)(query, server)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            continue
        if found is not None:
            last = found
            if dnswire.rcode(found) not in _NEXT_SERVER:
                break
    return last


class _OneAnswer(asyncio.DatagramProtocol):
    """Waits for the datagram that answers, among what else comes."""

    def __init__(self, query: Query, ident: bytes) -> None:
        self._query, self._ident = query, ident
        self._strays = 0
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.answer.done():
            return
        if dnswire.answers(data, self._query, self._ident):
            self.answer.set_result(data)
            return
        self._strays += 1
        if self._strays > _MAX_STRAY:
            self.answer.set_result(None)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _by_udp(query: Query, server: str) -> bytes | None:
    loop, ident = asyncio.get_running_loop(), secrets.token_bytes(2)
    made = await loop.create_datagram_endpoint(lambda: _OneAnswer(query, ident), remote_addr=(server, _PORT))
    transport, protocol = made
    try:
        transport.sendto(dnswire.upstream_query(query, ident))
        return await protocol.answer
    finally:
        transport.abort()


async def _by_tcp(query: Query, server: str) -> bytes | None:
    ident = secrets.token_bytes(2)
    reader, writer = await asyncio.open_connection(server, _PORT)
    try:
        message = dnswire.upstream_query(query, ident)
        writer.write(len(message).to_bytes(2, "big") + message)
        found = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        return found if dnswire.answers(found, query, ident) else None
    finally:
        cast("asyncio.Transport", writer.transport).abort()
