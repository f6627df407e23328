"""One client, or one sandbox, at its limit: it gets a clear answer, nobody else notices, and memory stays what was granted."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.edge.edge_support import (
    OK,
    SANDBOX,
    MemoryDirectory,
    Raw,
    answering,
    edge_for,
    raw,
    request,
    serving,
    stop_reading,
)

from sandpit.edge import Edge, Limits, server
from sandpit.edge.limits import PIECE_BYTES
from sandpit.lib.peers import Peers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST, SECOND = "127.0.0.41", "127.0.0.42"


@asynccontextmanager
async def connected(edge: Edge, address: str, data: bytes = b"") -> AsyncIterator[Raw]:
    """A client with a given address."""
    reader, writer = await asyncio.open_connection(*edge.addresses[0], local_addr=(address, 0))
    writer.write(data)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def test_one_client_at_its_limit(directory: MemoryDirectory) -> None:
    directory.add()
    async with (
        edge_for(directory, limits=Limits(client_connections=3)) as edge,
        serving(answering(OK)) as port,
        AsyncExitStack() as held,
    ):
        own = [await held.enter_async_context(connected(edge, FIRST, request(port))) for _ in range(3)]
        for client in own:
            assert (await client.answer())[0] == 200
        async with connected(edge, FIRST, request(port)) as fourth:
            status, fields, body = await fourth.answer()
            assert (status, fields["retry-after"]) == (503, "1")
            assert "too many connections" in json.loads(body)["message"]
        async with connected(edge, SECOND, request(port)) as other:
            assert (await other.answer())[0] == 200
        own[0].send(request(port))
        assert (await own[0].answer())[0] == 200


async def test_a_proxy_has_no_limit_of_its_own(directory: MemoryDirectory) -> None:
    directory.add()
    proxies = (ipaddress.ip_network(f"{FIRST}/32"),)
    async with (
        edge_for(directory, limits=Limits(client_connections=1, proxies=proxies)) as edge,
        serving(answering(OK)) as port,
        AsyncExitStack() as held,
    ):
        for _ in range(5):
            client = await held.enter_async_context(connected(edge, FIRST, request(port)))
            assert (await client.answer())[0] == 200


async def test_idle_connections_of_one_make_room_for_others(directory: MemoryDirectory) -> None:
    directory.add()
    async with (
        edge_for(directory, limits=Limits(connections=4)) as edge,
        serving(answering(OK)) as port,
        AsyncExitStack() as held,
    ):
        idle = [await held.enter_async_context(connected(edge, FIRST)) for _ in range(4)]
        await asyncio.sleep(0.1)
        async with connected(edge, SECOND, request(port)) as other:
            assert (await other.answer())[0] == 200
            assert await idle[0].reader.read() == b""
            async with connected(edge, SECOND, request(port)) as another:
                assert (await another.answer())[0] == 200
                async with connected(edge, SECOND, request(port)) as more:  # as many as the other has
                    assert (await more.answer())[0] == 503


async def test_requests_under_way_keep_their_place(directory: MemoryDirectory) -> None:
    directory.add()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        edge_for(directory, limits=Limits(connections=3)) as edge,
        serving(mute) as port,
        AsyncExitStack() as held,
    ):
        for _ in range(3):
            await held.enter_async_context(connected(edge, FIRST, request(port)))
        await asyncio.sleep(0.2)
        async with connected(edge, SECOND, request(port)) as other:
            assert (await other.answer())[0] == 503
        assert len(edge._exchanges[SANDBOX]) == 3


async def test_one_client_does_not_take_the_api(directory: MemoryDirectory) -> None:
    """Through the gateway, each client has its share of the API; the gateway's connections count as nobody's there."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert writer.get_extra_info("peername")[1] in ports
        await reader.read()

    ports: set[int] = set()
    limits = Limits(client_api_requests=2, api_requests=3)
    data = b"GET /sandboxes HTTP/1.1\r\nHost: api.a\r\n\r\n"
    async with serving(mute, "127.0.0.1") as port:
        backend = ("127.0.0.1", port)
        async with (
            edge_for(directory, limits=limits, api_backend=backend, api_ports=ports) as edge,
            AsyncExitStack() as held,
        ):
            for address, wanted in ((FIRST, 0), (FIRST, 0), (FIRST, 429), (SECOND, 0), (SECOND, 503)):
                client = await held.enter_async_context(connected(edge, address, data))
                if wanted:
                    assert (await client.answer())[0] == wanted
                else:
                    await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        assert not edge._api_clients
        assert not ports


@pytest.mark.parametrize("upgrade", [False, True], ids=["answer", "websocket"])
async def test_a_client_that_does_not_read_holds_little(directory: MemoryDirectory, upgrade: bool) -> None:
    """The server in the sandbox is stopped; another client of the same sandbox gets all of its answer meanwhile."""
    directory.add()
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        head = await reader.readuntil(b"\r\n\r\n")
        if b"small" in head:
            writer.write(OK)
            return
        switch = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        writer.write(switch if upgrade else b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    wanted = "Connection: upgrade\r\nUpgrade: websocket\r\n" if upgrade else ""
    limits = Limits()
    async with edge_for(directory, limits=limits) as edge, serving(pour) as port, raw(edge) as client:
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stop_reading(client.writer)
        client.send(request(port, extra=wanted))
        before = -1
        while sent > before or not sent:
            before = sent
            await asyncio.sleep(0.3)
        [held] = edge._clients
        assert held.congested
        assert held.transport.get_write_buffer_size() <= limits.buffer_bytes + PIECE_BYTES + 16
        async with raw(edge, request(port, "/small")) as other:
            assert (await other.answer())[2] == b"ok"


async def test_a_client_that_takes_nothing_is_ended(directory: MemoryDirectory) -> None:
    directory.add()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(64 << 20))
        await writer.drain()

    async with (
        edge_for(directory, limits=Limits(stall_time=0.5, head_time=0.8)) as edge,
        serving(pour) as port,
        raw(edge) as client,
    ):
        stop_reading(client.writer)
        client.send(request(port))
        while not edge._clients or not edge._exchanges:
            await asyncio.sleep(0.05)
        while edge._clients or edge._exchanges:
            await asyncio.sleep(0.05)


async def test_stalled_clients_of_one_address_are_few(
    directory: MemoryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest go; other addresses are not asked."""
    directory.add()
    monkeypatch.setattr(server, "STALL_GRACE", 0.1)

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(16 << 20))
        await writer.drain()

    async with (
        edge_for(directory, limits=Limits(client_stalled=2, head_time=0.8)) as edge,
        serving(pour) as port,
        AsyncExitStack() as held,
    ):
        for address in (FIRST, FIRST, FIRST, FIRST, SECOND):
            client = await held.enter_async_context(connected(edge, address, request(port)))
            stop_reading(client.writer)
            await asyncio.sleep(0.3)
        while len(edge._clients) > 3:
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert sorted(client.peer for client in edge._clients) == [FIRST.encode(), FIRST.encode(), SECOND.encode()]


async def test_requests_that_a_sandbox_does_not_read_are_few(
    directory: MemoryDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clients send to a server that sleeps waits in the gateway for few of them."""
    directory.add()
    monkeypatch.setattr(server, "STALL_GRACE", 0.1)

    async def sleep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stop_reading(writer)
        await asyncio.sleep(60)

    data = "Content-Length: 99999999\r\n"
    async with (
        edge_for(directory, limits=Limits(sandbox_stalled=2, head_time=0.8)) as edge,
        serving(sleep) as port,
        AsyncExitStack() as held,
    ):
        clients = []
        for _ in range(4):
            client = await held.enter_async_context(raw(edge, request(port, method="POST", extra=data)))
            client.send(bytes(20 << 20))
            clients.append(client)
            await asyncio.sleep(0.3)
        for client in clients[:2]:
            assert b" 503 " in await client.head()
        assert len(edge._exchanges[SANDBOX]) == 2
        for client in clients:
            client.abort()


async def test_idle_connections_to_one_sandbox_are_bounded(directory: MemoryDirectory) -> None:
    """However many ports of it are asked for."""
    directory.add()
    async with edge_for(directory, limits=Limits(pool_sandbox=2, pool_time=60)) as edge, AsyncExitStack() as ports:
        for _ in range(4):
            port = await ports.enter_async_context(serving(answering(OK)))
            async with raw(edge, request(port)) as client:
                assert (await client.answer())[0] == 200
        assert edge.pool._count[SANDBOX] == sum(len(idle) for idle in edge.pool._idle.values()) == 2
        directory.kill()
        assert edge.pool._count.total() == 0
        assert not edge.pool._idle


async def test_handshakes_count_for_their_client(directory: MemoryDirectory, tmp_path: object) -> None:
    """Connections that say nothing to the HTTPS port are one client's, too."""
    peers = Peers(total=10, each=2)
    assert peers.has_room(FIRST, 1, 1)
    assert not peers.has_room(FIRST, 2, 2)
    assert peers.has_room(SECOND, 0, 2)
    assert not peers.has_room(SECOND, 0, 10)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True), ("192.0.2.1", "192.0.2.2", False), ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)  # fmt: skip
def test_who_is_one_client(one: str, other: str, same: bool) -> None:
    peers = Peers(total=1, each=1)
    assert (peers.group_of(one) == peers.group_of(other)) is same
