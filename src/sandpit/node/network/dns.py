"""Names for sandboxes: a relay from each sandbox's gateway to the host's own resolvers.

Sandboxes cannot reach private addresses, where most hosts' resolvers are; and rules that allow names can only be kept by whoever answers
for names: an allowed name's addresses are opened as they are resolved, any other name is refused.

Whoever asks is hostile. Each sandbox has a share of everything (`Bounds`), and what belongs to it ends with it (`forget`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from sandpit.contract.egress import Rules
from sandpit.lib.tasks import Tasks
from sandpit.node.config import GATEWAY_ADDRESS
from sandpit.node.network import dnswire, resolver
from sandpit.node.network.dnswire import MalformedError, Query
from sandpit.node.network.shares import Shares

log = logging.getLogger(__name__)

_PORT_ATTEMPTS = 32
_IP_FREEBIND = 15
"""ip(7): bind to an address that comes with the first network slot."""

RulesOf = Callable[[str], Rules | None]
"""Outer address -> the rules in force for it; None for an address that no sandbox has."""
Pin = Callable[[str, Rules, list[str]], Awaitable[bool]]
"""(outer address, rules, IPv4 addresses) -> called before the sandbox hears the answer; false: these rules are not in force now."""
Answer = Callable[[bytes | None], None]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the relay grants. A query is at most `dnswire.MAX_QUERY` bytes, an answer 64 KiB by TCP and as much as a query by UDP."""

    queries: int = 256
    """Under way to the host's resolvers, each with a socket of its own."""
    sandbox_queries: int = 64
    sandbox_waiting: int = 256
    """Queries of one sandbox that wait for a place; more are dropped, as an overloaded resolver does."""
    rate: float = 512.0
    """Queries per second of one sandbox; as many may come at once. The packet filter has the same limit for packets."""
    query_seconds: float = 10.0
    """From a query's arrival to its answer, waiting included."""
    connections: int = 256
    sandbox_connections: int = 16
    idle_seconds: float = 10.0
    """Of a TCP connection: for the next query to arrive whole, and for an answer to be taken."""
    connection_seconds: float = 60.0


@dataclass(slots=True)
class _Client:
    """What one sandbox has of the relay, beside its share of queries."""

    tokens: float
    counted: float
    """When `tokens` was right (event loop time)."""
    connections: dict[asyncio.Task[None], None] = field(default_factory=dict)
    """In the order in which they came."""


class DnsRelay:
    """Answers the sandboxes' DNS queries, UDP and TCP, on one port of the gateway address."""

    def __init__(
        self, rules_of: RulesOf, pin: Pin, *, servers: Sequence[str] = (), bounds: Bounds | None = None
    ) -> None:
        """Ask `rules_of` before resolving and `pin` before answering. `servers` replace the host's resolvers."""
        self._rules_of, self._pin = rules_of, pin
        self._servers = (lambda: servers) if servers else lambda: resolver.resolvers()
        self._bounds = bounds or Bounds()
        limits = self._bounds
        self._shares = Shares(total=limits.queries, each=limits.sandbox_queries, waiting=limits.sandbox_waiting)
        self._clients: dict[str, _Client] = {}
        self._open = 0
        self._tasks = Tasks()
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        udp, tcp = _bound_pair()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp)
        self._server = await asyncio.start_server(self._accept_tcp, sock=tcp, limit=dnswire.MAX_QUERY)
        return int(udp.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop what is under way."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        await self._shares.close()
        await self._tasks.close()

    def forget(self, address: str) -> None:
        """Drop all that the sandbox at an outer address has here: its connections, and queries whose answers come too late."""
        self._shares.forget(address)
        client = self._clients.pop(address, None)
        if client is not None:
            for connection in tuple(client.connections):
                self._close(client, connection)

    def accept_udp(self, wire: bytes, peer: tuple[str, int]) -> None:
        """Take a datagram."""

        def answer(found: bytes | None) -> None:
            if found is not None and self._transport is not None and not self._transport.is_closing():
                self._transport.sendto(found, peer)

        if self._delay(peer[0]) == 0:
            self._take(wire, peer[0], answer, tcp=False)

    def _delay(self, address: str) -> float:
        """Count a query; 0 if it is within the sandbox's rate, else the seconds until it is."""
        if self._rules_of(address) is None:
            return 0.0  # answered at once, nothing is kept
        now, rate = asyncio.get_running_loop().time(), self._bounds.rate
        client = self._client(address, now)
        client.tokens = min(rate, client.tokens + (now - client.counted) * rate)
        client.counted = now
        if client.tokens < 1:
            return (1 - client.tokens) / rate
        client.tokens -= 1
        return 0.0

    def _client(self, address: str, now: float) -> _Client:
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = _Client(self._bounds.rate, now)
        return client

    def _take(self, wire: bytes, address: str, answer: Answer, *, tcp: bool) -> None:
        """Answer a message now if that needs nobody else, or give it a place among those under way."""
        try:
            query = dnswire.parse_query(wire)
        except MalformedError:
            answer(dnswire.refusal_of(wire))
            return
        rules = self._rules_of(address)
        if rules is None or not rules.may_ask(query.name, query.kind):
            answer(dnswire.failure(query, dnswire.REFUSED))
            return
        deadline = asyncio.get_running_loop().time() + self._bounds.query_seconds
        if not self._shares.offer(address, lambda: self._resolve(query, address, rules, answer, tcp, deadline)):
            answer(None)

    async def _resolve(
        self, query: Query, address: str, rules: Rules, answer: Answer, tcp: bool, deadline: float
    ) -> None:
        found = None
        try:
            async with asyncio.timeout_at(deadline):
                wire = await resolver.ask(query, tcp=tcp, servers=self._servers)
                found = await self._checked(wire, query, address, rules, tcp=tcp)
        except (TimeoutError, OSError):
            found = dnswire.failure(query, dnswire.SERVFAIL)
        except Exception:  # a defect here must not leave the connection without an answer
            log.exception("a name could not be resolved")
        finally:
            answer(found)

    async def _checked(self, wire: bytes | None, query: Query, address: str, rules: Rules, *, tcp: bool) -> bytes:
        """What the sandbox hears, if the rules by which it asked are still in force; addresses that they pin are open by then."""
        if wire is None:
            return dnswire.failure(query, dnswire.SERVFAIL)
        try:
            pinned = (
                dnswire.addresses(wire, query) if rules.pinned(query.name) and not dnswire.is_truncated(wire) else []
            )
        except MalformedError:
            return dnswire.failure(query, dnswire.SERVFAIL)
        if pinned and not await self._pin(address, rules, pinned):
            return dnswire.failure(query, dnswire.SERVFAIL)
        if self._rules_of(address) is not rules:
            return dnswire.failure(query, dnswire.SERVFAIL)
        return dnswire.for_client(wire, query, tcp=tcp)

    def _accept_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection, or close it when there are too many."""
        peer = writer.get_extra_info("peername")
        address = peer[0] if peer else ""
        client = self._client(address, asyncio.get_running_loop().time())
        if not self._has_room(client):
            cast("asyncio.Transport", writer.transport).abort()
            return
        self._open += 1
        task = self._tasks.spawn(self._serve_tcp(reader, writer, address), f"names for {address}")
        client.connections[task] = None
        task.add_done_callback(lambda task: self._tcp_over(address, client, task, writer))

    def _has_room(self, client: _Client) -> bool:
        """Whether one more connection may come; when all are taken, whoever has most loses the oldest to whoever has fewer."""
        held = len(client.connections)
        if held >= self._bounds.sandbox_connections:
            return False
        if self._open < self._bounds.connections:
            return True
        greediest = max(self._clients.values(), key=lambda other: len(other.connections))
        if len(greediest.connections) <= held + 1:
            return False
        self._close(greediest, next(iter(greediest.connections)))
        return True

    def _close(self, client: _Client, connection: asyncio.Task[None]) -> None:
        """Its place is free at once."""
        del client.connections[connection]
        self._open -= 1
        connection.cancel()

    def _tcp_over(self, address: str, client: _Client, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        if task in client.connections:
            del client.connections[task]
            self._open -= 1
        if not client.connections and self._rules_of(address) is None and self._clients.get(address) is client:
            del self._clients[address]
        cast("asyncio.Transport", writer.transport).abort()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        """Queries one after the other: who sends more of them waits."""
        try:
            async with asyncio.timeout(self._bounds.connection_seconds):
                while (wire := await self._read(reader)) is not None:
                    while delay := self._delay(address):
                        await asyncio.sleep(delay)
                    answer = await self._answer_tcp(wire, address)
                    if answer is None:
                        return
                    async with asyncio.timeout(self._bounds.idle_seconds):
                        writer.write(len(answer).to_bytes(2, "big") + answer)
                        await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            return

    async def _read(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next query; None when it is too large."""
        async with asyncio.timeout(self._bounds.idle_seconds):
            length = int.from_bytes(await reader.readexactly(2), "big")
            return await reader.readexactly(length) if length <= dnswire.MAX_QUERY else None

    async def _answer_tcp(self, wire: bytes, address: str) -> bytes | None:
        """Raises: TimeoutError when the query lost its place before it was begun."""
        found: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def answer(answer: bytes | None) -> None:
            if not found.done():
                found.set_result(answer)

        self._take(wire, address, answer, tcp=True)
        async with asyncio.timeout(self._bounds.query_seconds + 1):
            return await found


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, relay: DnsRelay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._relay.accept_udp(data, addr)


def _bound_pair() -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP on one port. One that is free for UDP may be taken for TCP: then another. Raises: OSError."""
    for left in reversed(range(_PORT_ATTEMPTS)):
        udp = _bound(socket.SOCK_DGRAM, 0)
        try:
            return udp, _bound(socket.SOCK_STREAM, udp.getsockname()[1])
        except OSError as error:
            udp.close()
            if error.errno != errno.EADDRINUSE or not left:
                raise
    raise AssertionError


def _bound(kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    try:
        sock.bind((str(GATEWAY_ADDRESS), port))
    except OSError:
        sock.close()
        raise
    return sock
