"""Names for sandboxes: a relay from each sandbox's gateway to the host's own resolvers.

Sandboxes cannot reach private addresses, where most hosts' resolvers are; and rules that allow names can only be kept by whoever answers
for names: an allowed name's addresses are opened as they are told, any other name is refused.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
from dns.exception import DNSException

from sandpit.node.config import GATEWAY_ADDRESS
from sandpit.node.tasks import Tasks

log = logging.getLogger(__name__)

_UPSTREAM_SECONDS = 5.0
_MAX_IN_FLIGHT = 512
_PORT_ATTEMPTS = 32
_IP_FREEBIND = 15
"""ip(7): bind to an address that comes with the first network slot."""

Allows = Callable[[str, str], bool]
"""(sandbox's outer address, lower-case name) -> whether it may be resolved."""
Learned = Callable[[str, str, list[str]], Awaitable[None]]
"""(outer address, name, IPv4 addresses) -> called before the sandbox hears the answer."""


def resolvers() -> list[str]:
    """The host's name servers (resolv.conf(5))."""
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [address for address in found if ":" not in address] or ["127.0.0.1"]


class DnsRelay:
    """Answers the sandboxes' DNS queries, UDP and TCP, on one port of the gateway address."""

    def __init__(self, allows: Allows, learned: Learned) -> None:
        """Ask `allows` before resolving, tell `learned` before answering."""
        self._allows = allows
        self._learned = learned
        self._tasks = Tasks()
        self._in_flight = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        udp, tcp = _bound_pair()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), sock=udp)
        self._server = await asyncio.start_server(self._serve_tcp, sock=tcp)
        return int(udp.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop what is under way."""
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        await self._tasks.close()

    def accept(self, query: bytes, peer: tuple[str, int]) -> None:
        """Take a UDP query; past the limit it is dropped, as an overloaded resolver would."""
        if self._in_flight < _MAX_IN_FLIGHT:
            self._tasks.spawn(self._answer_udp(query, peer), "dns query")

    async def _answer_udp(self, query: bytes, peer: tuple[str, int]) -> None:
        answer = await self._answer(query, peer[0], tcp=False)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        try:
            async with asyncio.timeout(30):
                while True:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    answer = await self._answer(await reader.readexactly(length), peer, tcp=True)
                    if answer is None:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(self, query: bytes, peer: str, *, tcp: bool) -> bytes | None:
        self._in_flight += 1
        try:
            message = dns.message.from_wire(query)
            if len(message.question) != 1:
                return None
            name = message.question[0].name.to_text(omit_final_dot=True).lower()
            if not self._allows(peer, name):
                return _failure(message, dns.rcode.REFUSED)
            answer = await (_ask_tcp(query) if tcp else _ask_udp(query))
            if answer is None:
                return _failure(message, dns.rcode.SERVFAIL)
            await self._learned(peer, name, _addresses(answer))
            return answer
        except DNSException:
            return None
        finally:
            self._in_flight -= 1


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, relay: DnsRelay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._relay.accept(data, addr)


class _OneAnswer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.answer.done():
            self.answer.set_result(data)


async def _ask_udp(query: bytes) -> bytes | None:
    loop = asyncio.get_running_loop()
    for server in resolvers():
        transport, protocol = await loop.create_datagram_endpoint(_OneAnswer, remote_addr=(server, 53))
        try:
            transport.sendto(query)
            async with asyncio.timeout(_UPSTREAM_SECONDS):
                answer = await protocol.answer
            if answer[:2] == query[:2]:
                return answer
        except (TimeoutError, OSError):
            continue
        finally:
            transport.close()
    return None


async def _ask_tcp(query: bytes) -> bytes | None:
    for server in resolvers():
        try:
            async with asyncio.timeout(_UPSTREAM_SECONDS):
                reader, writer = await asyncio.open_connection(server, 53)
                try:
                    writer.write(len(query).to_bytes(2, "big") + query)
                    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                finally:
                    writer.close()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            continue
    return None


def _addresses(answer: bytes) -> list[str]:
    message = dns.message.from_wire(answer, ignore_trailing=True)
    return [record.address for group in message.answer if group.rdtype == dns.rdatatype.A for record in group]


def _failure(query: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
    answer = dns.message.make_response(query)
    answer.set_rcode(code)
    return answer.to_wire()


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
