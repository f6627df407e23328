"""Requests for sandboxes that are held (being paused or copied) or asleep (paused, and resumed by requests)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from tests.edge.edge_support import OK, SANDBOX, MemoryDirectory, Raw, answering, raw, request, serving
from tests.edge.test_ends import BODIES, Server, address, echo, routed
from tests.edge.test_routing import sign
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from sandpit.contract.directory import WakeRefusedError
from sandpit.protocol import ports

if TYPE_CHECKING:
    from sandpit.edge import Edge

TRAFFIC = "e2b-traffic-access-token"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"


async def waits(directory: MemoryDirectory, client: Raw) -> None:
    """The request has come as far as the directory, and has no answer."""
    await directory.waking.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.reader.read(1), 0.05)


@pytest.mark.parametrize(("method", "body"), [("GET", ""), ("POST", "sent")])
async def test_a_request_waits_for_a_held_sandbox(
    directory: MemoryDirectory, edge: Edge, method: str, body: str
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        sent = await reader.readexactly(len(body))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(sent) + 4, head[:4] + sent))
        await writer.drain()

    directory.hold()
    extra = f"Content-Length: {len(body)}\r\n" if body else ""
    async with serving(handle) as port, raw(edge, request(port, method=method, extra=extra) + body.encode()) as client:
        await waits(directory, client)
        directory.release()
        assert await client.answer() == (200, {"content-length": str(len(body) + 4)}, f"{method:4}{body}".encode())
    assert directory.wakes == []


async def test_a_held_sandbox_that_ends(directory: MemoryDirectory, edge: Edge) -> None:
    directory.hold()
    async with raw(edge, request(8000)) as client:
        await waits(directory, client)
        directory.kill()
        status, _, body = await client.answer()
        message = {"sandboxId": SANDBOX, "message": "The sandbox was not found", "code": 502}
        assert (status, json.loads(body)) == (502, message)
    assert not edge._exchanges


async def test_a_client_that_leaves_while_it_waits(directory: MemoryDirectory, edge: Edge) -> None:
    directory.hold()
    async with raw(edge, request(8000)) as client:
        await waits(directory, client)
    while edge._exchanges:
        await asyncio.sleep(0.01)
    directory.release()


async def test_a_hundred_requests_wake_it_once(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add(state="asleep")
    directory.hold_wake = asyncio.Event()

    async def ask(port: int) -> bytes:
        async with raw(edge, request(port)) as client:
            return (await client.answer())[2]

    async with serving(answering(OK)) as port:
        asking = [asyncio.create_task(ask(port)) for _ in range(100)]
        while len(edge._exchanges.get(SANDBOX, ())) < 100:
            await asyncio.sleep(0.01)
        directory.hold_wake.set()
        assert await asyncio.gather(*asking) == [b"ok"] * 100
    assert directory.wakes == [SANDBOX]


@pytest.mark.parametrize("status", [403, 404, 429, 503])
async def test_a_refused_resume_is_answered(directory: MemoryDirectory, edge: Edge, status: int) -> None:
    directory.add(state="asleep")
    directory.fail_wake = WakeRefusedError(status, "not now")
    async with raw(edge, request(8000)) as client:
        code, _, body = await client.answer()
        assert (code, json.loads(body)) == (status, {"sandboxId": SANDBOX, "message": "not now", "code": status})


async def test_a_resume_that_goes_wrong_is_answered(
    directory: MemoryDirectory, edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    directory.add(state="asleep")
    directory.fail_wake = RuntimeError("a defect")
    async with raw(edge, request(8000)) as client:
        code, _, body = await client.answer()
        assert (code, json.loads(body)["message"]) == (500, "The sandbox could not be resumed")
    assert "a defect" in caplog.text


async def test_strangers_do_not_wake_it(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add(state="asleep", access_token="agent", traffic_token="traffic")
    strangers = [
        (request(ports.AGENT, "/health"), 401),
        (request(ports.AGENT, "/files", extra="X-Access-Token: wrong\r\n"), 401),
        (request(ports.AGENT, "/files?path=/a&username=user&signature=v1_wrong"), 401),
        (request(ports.AGENT, "/init", extra="X-Access-Token: agent\r\n"), 404),
        (request(8000), 403),
        (request(8000, extra=f"{TRAFFIC}: wrong\r\n"), 403),
        (request(8000, extra="X-Access-Token: agent\r\n"), 403),
        (request(49981, extra=f"{TRAFFIC}: traffic\r\n"), 404),
    ]
    for data, expected in strangers:
        async with raw(edge, data) as client:
            assert (await client.answer())[0] == expected, data
    assert directory.wakes == []


@pytest.mark.parametrize("kind", ["token", "link", "traffic"])
async def test_who_has_the_token_wakes_it(directory: MemoryDirectory, edge: Edge, kind: str) -> None:
    directory.add(state="asleep", access_token="agent", traffic_token="traffic")
    signed = f"/files?path=/a&username=user&signature={sign('/a', 'read', 'user', 'agent')}"
    async with serving(answering(OK), port=ports.AGENT), serving(answering(OK)) as port:
        data = {
            "token": request(ports.AGENT, extra="X-Access-Token: agent\r\n"),
            "link": request(ports.AGENT, signed),
            "traffic": request(port, extra=f"{TRAFFIC}: traffic\r\n"),
        }[kind]
        async with raw(edge, data) as client:
            assert (await client.answer())[0] == 200
    assert directory.wakes == [SANDBOX]


async def test_a_stranger_who_waited_for_the_pause_does_not_wake_it(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add(access_token="agent")
    directory.hold()
    async with (
        serving(answering(OK), port=ports.AGENT),
        raw(edge, request(ports.AGENT, "/health")) as stranger,
        raw(edge, request(ports.AGENT, "/health", extra="X-Access-Token: agent\r\n")) as owner,
    ):
        await waits(directory, stranger)
        await waits(directory, owner)
        directory.hold_wake = asyncio.Event()
        directory.release(asleep=True)
        assert (await stranger.answer())[0] == 401
        directory.hold_wake.set()
        assert (await owner.answer())[0] == 200
    assert directory.wakes == [SANDBOX]


@pytest.mark.parametrize("beginning", [BODIES["sized"], BODIES["chunked"]])
async def test_a_hold_cuts_streams(directory: MemoryDirectory, edge: Edge, beginning: bytes) -> None:
    server = Server(beginning)
    async with serving(server) as port, raw(edge, request(port)) as client:
        await client.head()
        directory.hold()
        await server.ended.wait()
        with pytest.raises(ConnectionResetError):
            await client.rest()
        directory.release()
    assert not edge._exchanges


async def test_a_hold_cuts_tunnels(directory: MemoryDirectory, edge: Edge) -> None:
    async with serve(echo, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(address(edge), additional_headers=routed(port)) as socket:
            await socket.send("x")
            await socket.recv()
            directory.hold()
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        directory.release()


@pytest.mark.parametrize(
    ("method", "extra", "repeated"), [("GET", "", True), ("POST", "Content-Length: 0\r\n", False), ("POST", "", False)]
)
async def test_what_is_under_way_when_it_is_held(
    directory: MemoryDirectory, edge: Edge, method: str, extra: str, repeated: bool
) -> None:
    """A GET that has no answer yet is asked again; what may have done something is not."""
    heads: list[bytes] = []
    first = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(heads) > 1:
            writer.write(ANSWER)
        first.set()
        await reader.read()

    async with serving(handle) as port, raw(edge, request(port, method=method, extra=extra)) as client:
        await first.wait()
        directory.hold()
        if repeated:
            await waits(directory, client)
            directory.release()
            assert (await client.answer())[2] == b"again"
            assert heads[0] == heads[1]
        else:
            assert (await client.answer())[0] == 502
            directory.release()
            await asyncio.sleep(0.05)
            assert len(heads) == 1


async def test_kept_connections_do_not_outlive_a_hold(directory: MemoryDirectory, edge: Edge) -> None:
    """After a pause the sandbox may have another address, and its kernel knows nothing of the old connections."""
    async with serving(answering(OK)) as port, raw(edge, request(port)) as client:
        await client.answer()
        directory.hold()
        directory.release(asleep=True)
        directory.add(address="127.0.0.3", state="asleep")
        async with serving(answering(ANSWER), "127.0.0.3", port):
            client.send(request(port))
            assert (await client.answer())[2] == b"again"


async def test_an_upgrade_wakes_it(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add(state="asleep")
    async with serve(echo, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(address(edge), additional_headers=routed(port)) as socket:
            await socket.send("hello")
            assert await socket.recv()
    assert directory.wakes == [SANDBOX]
