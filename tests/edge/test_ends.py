"""Ends: of clients, servers and sandboxes; and tunnels."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.edge.edge_support import OK, SANDBOX, MemoryDirectory, answering, edge_for, raw, request, reset, serving
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

if TYPE_CHECKING:
    from sandpit.edge import Edge

BODIES = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    "close": b"HTTP/1.1 200 OK\r\n\r\npart",
}


class Server:
    """Answers with the beginning of a body, then waits; notes when its connection ends."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.beginning)
            self.started.set()
            await reader.read()
        finally:
            self.ended.set()


@pytest.mark.parametrize("beginning", [*BODIES.values(), b""])
@pytest.mark.parametrize("how", ["close", "abort", "eof"])
async def test_a_client_that_leaves_is_gone_for_the_server_at_once(edge: Edge, beginning: bytes, how: str) -> None:
    server = Server(beginning)
    async with serving(server) as port, raw(edge, request(port)) as client:
        await server.started.wait()
        if beginning:
            await client.head()
        {"close": client.writer.close, "abort": client.abort, "eof": client.writer.write_eof}[how]()
        await server.ended.wait()
    assert not edge._exchanges


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_an_aborted_answer_never_looks_complete(edge: Edge, kind: str, version: bytes) -> None:
    server = Server(BODIES[kind])
    async with serving(server) as port, raw(edge, request(port).replace(b"HTTP/1.1", version)) as client:
        head = await client.head()
        await client.reader.readuntil(b"part")
        assert server.writer
        reset(server.writer)
        if b"Content-Length" in head or b"chunked" in head:
            assert b"0\r\n" not in await client.rest()
        else:
            with pytest.raises(ConnectionResetError):
                await client.rest()


@pytest.mark.parametrize("kind", ["sized", "chunked"])
async def test_an_answer_that_ends_early_never_looks_complete(edge: Edge, kind: str) -> None:
    async with serving(answering(BODIES[kind], close=True)) as port, raw(edge, request(port)) as client:
        await client.head()
        assert (await client.rest()).strip() in {b"part", b"4\r\npart"}


@pytest.mark.parametrize("beginning", BODIES.values())
async def test_a_sandboxs_end_cuts_its_streams(directory: MemoryDirectory, edge: Edge, beginning: bytes) -> None:
    server = Server(beginning)
    async with serving(server) as port, raw(edge, request(port)) as client:
        await server.started.wait()
        await client.head()
        await client.reader.readuntil(b"part")
        directory.kill(SANDBOX)
        with pytest.raises(ConnectionResetError):
            await client.rest()
        await server.ended.wait()
        async with raw(edge, request(49983, "/health")) as probe:
            status, _, body = await probe.answer()
            assert (status, json.loads(body)["message"]) == (502, "The sandbox was not found")


async def test_a_sandboxs_end_answers_who_still_waits(directory: MemoryDirectory, edge: Edge) -> None:
    server = Server(b"")
    async with serving(server) as port, raw(edge, request(port)) as client:
        await server.started.wait()
        directory.kill(SANDBOX)
        status, _, body = await client.answer()
        assert (status, json.loads(body)["message"]) == (502, "The sandbox was not found")
        await server.ended.wait()
        client.send(request(port))
        assert (await client.answer())[0] == 502


async def test_a_sandboxs_end_answers_who_still_sends(directory: MemoryDirectory, edge: Edge) -> None:
    server = Server(b"")
    sent = "Content-Length: 100\r\n"
    async with serving(server) as port, raw(edge, request(port, method="POST", extra=sent) + b"part") as client:
        await server.started.wait()
        directory.kill(SANDBOX)
        assert (await client.answer())[0] == 502


async def test_a_sandboxs_end_spares_the_others(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add("iother", "127.0.0.3")
    server = Server(BODIES["chunked"])
    async with serving(server, "127.0.0.3") as port, raw(edge, request(port, sandbox="iother")) as client:
        await client.head()
        await client.reader.readuntil(b"part")
        directory.kill(SANDBOX)
        assert server.writer
        server.writer.write(b"0\r\n\r\n")
        await client.reader.readuntil(b"0\r\n\r\n")


async def test_a_sandboxs_end_drops_its_kept_connections(directory: MemoryDirectory, edge: Edge) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        ended.set()

    async with serving(handle) as port, raw(edge, request(port)) as client:
        await client.answer()
        directory.kill(SANDBOX)
        await ended.wait()
        client.send(request(port))
        assert (await client.answer())[0] == 502


async def test_stop_ends_everything(directory: MemoryDirectory) -> None:
    directory.add()
    server = Server(BODIES["chunked"])
    async with serving(server) as port, edge_for(directory) as edge:
        async with raw(edge, request(port)) as client:
            await client.head()
            await edge.stop()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await server.ended.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", client.writer.get_extra_info("peername")[1])


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


def routed(port: int) -> dict[str, str]:
    return {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(port)}


def address(edge: Edge) -> str:
    return "ws://{}:{}/ws".format(*edge.addresses[0])


async def test_websockets_pass(edge: Edge) -> None:
    async with serve(echo, "127.0.0.2", 0, max_size=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(address(edge), additional_headers=routed(port), max_size=None, proxy=None) as client:
            for message in ("hello", b"\0" * 5_000_000, ""):
                await client.send(message)
                assert await client.recv() == message
        assert client.close_code == 1000
    assert not edge._exchanges


async def test_a_refused_upgrade_is_an_ordinary_answer(edge: Edge) -> None:
    async with serving(answering(OK)) as port:
        with pytest.raises(InvalidStatus) as error:
            await connect(address(edge), additional_headers=routed(port), proxy=None)
        assert error.value.response.status_code == 200
    with pytest.raises(InvalidStatus) as error:
        await connect(address(edge), additional_headers={**routed(80), "E2b-Sandbox-Id": "igone"}, proxy=None)
    assert error.value.response.status_code == 502


async def test_a_sandboxs_end_cuts_its_tunnels(directory: MemoryDirectory, edge: Edge) -> None:
    async with serve(echo, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = await connect(address(edge), additional_headers=routed(port), proxy=None)
        directory.kill(SANDBOX)
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_a_client_that_leaves_ends_its_tunnel(edge: Edge) -> None:
    ended = asyncio.Event()

    async def watch(socket: ServerConnection) -> None:
        await socket.wait_closed()
        ended.set()

    async with serve(watch, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = await connect(address(edge), additional_headers=routed(port), proxy=None)
        client.transport.abort()
        await ended.wait()


UPGRADE = "Connection: Upgrade\r\nUpgrade: {}\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: custom\r\n\r\n"


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_reset_passes_through_a_tunnel(edge: Edge, side: str) -> None:
    server = Server(SWITCH)
    async with serving(server) as port, raw(edge, request(port, extra=UPGRADE.format("custom"))) as client:
        assert b" 101 " in await client.head()
        if side == "client":
            client.reset()
            await server.ended.wait()
        else:
            assert server.writer
            reset(server.writer)
            with pytest.raises(ConnectionResetError):
                await client.rest()
    await asyncio.sleep(0.05)
    assert not edge._exchanges


async def test_a_tunnel_carries_any_protocol_and_ends_by_halves(edge: Edge) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Upgrade: custom" in await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + b"first")
        writer.write(await reader.read())  # all of it: until the client's end

    async with serving(handle) as port, raw(edge, request(port, extra=UPGRADE.format("custom")) + b"early ") as client:
        assert b" 101 " in await client.head()
        assert await client.reader.readexactly(5) == b"first"
        client.send(b"late")
        client.writer.write_eof()
        assert await client.rest() == b"early late"
    await asyncio.sleep(0.05)
    assert not edge._exchanges


@pytest.mark.parametrize(
    ("port", "protocol"), [(0, "h2c"), (49983, "custom"), (49983, "h2c"), (49982, "h2c, websocket")]
)
async def test_upgrades_that_would_bypass_the_gate_are_not_asked_for(edge: Edge, port: int, protocol: str) -> None:
    seen: list[bytes] = []
    async with serving(answering(OK, seen=seen), port=port) as real:
        extra = UPGRADE.format(protocol) + "HTTP2-Settings: AAMAAABk\r\n"
        async with raw(edge, request(real, extra=extra)) as client:
            assert (await client.answer())[2] == b"ok"
        assert b"upgrade" not in seen[0].lower()
        assert b"http2-settings" not in seen[0].lower()


OUT_OF_MEMORY = "out of memory (limit 512 MiB)"
CONNECT = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n\r\n"
LINES = CONNECT.replace(b"connect+json", b"x-ndjson")


@pytest.mark.parametrize(
    ("port", "beginning"), [(49983, CONNECT + b"4\r\npart\r\n"), (49999, LINES + b"4\r\npart\r\n")]
)
@pytest.mark.parametrize("closes", [False, True])
async def test_the_last_words_of_a_sandbox_that_ended_on_its_own(
    directory: MemoryDirectory, edge: Edge, port: int, beginning: bytes, closes: bool
) -> None:
    """A stream says why, also when its server's connection was closed a moment before."""
    server = Server(beginning)
    async with serving(server, port=port), raw(edge, request(port)) as client:
        await client.head()
        await client.reader.readuntil(b"part\r\n")
        if closes:
            assert server.writer
            reset(server.writer)
            await asyncio.sleep(0.1)
        directory.kill(SANDBOX, OUT_OF_MEMORY)
        rest = await client.rest()
        assert f"The sandbox ended: {OUT_OF_MEMORY}".encode() in rest
        assert rest.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("beginning", [CONNECT + b"4\r\npar", LINES, CONNECT.replace(b"connect+json", b"json")])
async def test_no_last_words_where_they_could_be_mistaken(
    directory: MemoryDirectory, edge: Edge, beginning: bytes
) -> None:
    """Within a message, in another server's format, in a format without errors."""
    async with serving(Server(beginning), port=49983), raw(edge, request(49983)) as client:
        await client.head()
        await asyncio.sleep(0.05)
        directory.kill(SANDBOX, OUT_OF_MEMORY)
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_who_comes_later_is_told_why_a_sandbox_ended(directory: MemoryDirectory, edge: Edge) -> None:
    directory.kill(SANDBOX, OUT_OF_MEMORY)
    async with raw(edge, request(49983, "/health")) as client:
        status, _, body = await client.answer()
        message = json.loads(body)["message"]
        assert (status, message) == (502, f"The sandbox ended: {OUT_OF_MEMORY}. It was not found")
