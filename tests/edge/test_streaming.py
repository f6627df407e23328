"""Bodies in both directions: framing, order, back-pressure, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.edge.edge_support import OK, SANDBOX, MemoryDirectory, answering, edge_for, free_port, raw, request, serving

from sandpit.edge import Edge, Limits
from sandpit.edge.body import BodyError, ChunkedBody

if TYPE_CHECKING:
    from pathlib import Path


def headers(port: int) -> dict[str, str]:
    return {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(port)}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a chunked request with its raw body, in chunks as they come."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while line := await reader.readuntil(b"\r\n"):
        size = int(line, 16)
        writer.write(line + await reader.readexactly(size + 2))
        if not size:
            return


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "payload"),
    [
        (b"5\r\nhello\r\n0\r\n\r\nNEXT", b"hello"),
        (b"5;a=b\r\nhello\r\n0A\r\n0123456789\r\n000\r\nX-T: 1\r\n\r\nNEXT", b"hello0123456789"),
        (b"0\r\n\r\nNEXT", b""),
    ],
)
def test_chunks_end_where_they_end(text: bytes, payload: bytes, step: int) -> None:
    body, used, found = ChunkedBody(decode=True), 0, b""
    for at in range(0, len(text), step):
        piece = text[at : at + step]
        if body.done:
            break
        used += body.feed(piece)
        found += b"".join(body.pieces)
    assert (found, text[used:], body.done) == (payload, b"NEXT", True)


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n", b"x\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"1\na\r\n",
        b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na\rb", b"1;a\n\r\na\r\n", b"1;a\rb\r\na", b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nA : b\r\n\r\n", b"0\r\n x\r\n\r\n", b"ffffffffffffffff\r\n", b"1" * 20000, b"1_0\r\n", b"1;\0\r\n",
    ],
)  # fmt: skip
def test_doubtful_chunks_are_refused(text: bytes) -> None:
    with pytest.raises(BodyError):
        ChunkedBody().feed(text)


async def test_a_request_streams_while_its_answer_does(edge: Edge) -> None:
    async with serving(echo) as port, raw(edge, request(port, extra="Transfer-Encoding: chunked\r\n")) as client:
        await client.head()
        for word in (b"one", b"three"):
            piece = b"%x\r\n%b\r\n" % (len(word), word)
            client.send(piece)
            assert await client.reader.readexactly(len(piece)) == piece
        client.send(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_trailers_pass(edge: Edge) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\na\r\n0\r\nX-T: v\r\n\r\n"
    async with serving(answering(answer)) as port, raw(edge, request(port)) as client:
        assert b"Trailer: X-T" in await client.head()
        assert await client.reader.readexactly(19) == b"1\r\na\r\n0\r\nX-T: v\r\n\r\n"


async def test_events_arrive_one_by_one(edge: Edge) -> None:
    go = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await go.wait()
        writer.write(b"data: 2\n\n")

    async with serving(handle) as port, httpx.AsyncClient(headers=headers(port)) as client:
        url = "http://{}:{}/".format(*edge.addresses[0])
        async with client.stream("GET", url) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: 1"
            go.set()
            assert [line async for line in lines] == ["", "data: 2", ""]


async def test_close_delimited_answers_keep_the_client_connected(edge: Edge) -> None:
    plain = b"HTTP/1.0 200 OK\r\n\r\nall of it"
    async with serving(answering(plain, close=True)) as port, raw(edge, request(port)) as client:
        for _ in range(2):
            assert b"Transfer-Encoding: chunked" in await client.head()
            assert await client.reader.readuntil(b"0\r\n\r\n") == b"9\r\nall of it\r\n0\r\n\r\n"
            client.send(request(port))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.0 200 OK\nContent-Length: 5\n\nabcde",
    ],
)
async def test_old_clients_get_plain_bodies(edge: Edge, answer: bytes) -> None:
    async with serving(answering(answer, close=True)) as port:
        data = request(port).replace(b"HTTP/1.1", b"HTTP/1.0")
        async with raw(edge, data) as client:
            assert b"chunked" not in await client.head()
            assert await client.rest() == b"abcde"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_answers_without_a_body_are_over_at_once(edge: Edge, method: str, answer: bytes) -> None:
    seen: list[bytes] = []
    async with serving(answering(answer, seen=seen)) as port, raw(edge, request(port, method=method) * 3) as client:
        for _ in range(3 * answer.count(b"HTTP/1.1")):
            assert (await client.head()).startswith(b"HTTP/1.1 ")
        assert len(seen) == 3


async def test_pipelined_requests_are_served_in_order(edge: Edge) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(3) if b"Content-Length: 3" in head else b""
            assert not reader._buffer  # type: ignore[attr-defined]  # never the next request before the answer
            word = head.split()[1] + body
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(word), word))

    async with serving(handle) as port:
        post = request(port, "/b", "POST", "Content-Length: 3\r\n") + b"abc"
        dead = request(port, "/", sandbox="igone")
        async with raw(edge, request(port, "/a") + post + dead + request(port, "/c")) as client:
            bodies = [(await client.answer())[2] for _ in range(4)]
    assert bodies[0] == b"/a"
    assert bodies[1] == b"/babc"
    assert b"was not found" in bodies[2]
    assert bodies[3] == b"/c"


async def test_the_clients_100_continue_is_the_servers(edge: Edge) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    extra = "Expect: 100-continue\r\nContent-Length: 4\r\n"
    async with serving(handle) as port, raw(edge, request(port, "/", "POST", extra)) as client:
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert (await client.answer())[2] == b"body"


async def test_an_early_answer_arrives_although_the_upload_goes_on(edge: Edge) -> None:
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nstop"
    async with serving(answering(early)) as port:
        extra = "Content-Length: 100000000\r\n"
        for data in (request(port, "/", "POST", extra), request(port, "/", "POST", extra, sandbox="igone")):
            async with raw(edge, data) as client:
                client.send(bytes(1_000_000))
                status, _, _ = await client.answer()
                assert status in {413, 502}
                client.send(bytes(1_000_000))
                assert await client.rest() == b""


async def test_large_bodies_pass_unchanged_and_memory_stays_flat(edge: Edge) -> None:
    """A reader that does not read stops the writer: no more than the buffers is in between."""
    sent = 0
    block = os.urandom(1 << 20)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(64):
            writer.write(block)
            await writer.drain()
            sent += 1

    async with serving(handle) as port, raw(edge, request(port)) as client:
        await client.head()
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 40
        for _ in range(64):
            assert await client.reader.readexactly(1 << 20) == block


async def test_a_server_that_does_not_read_stops_the_client(edge: Edge) -> None:
    go = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = 64 << 20
        while left:
            left -= len(await reader.read(1 << 20))
        writer.write(OK)
        await writer.drain()

    async with (
        serving(handle) as port,
        raw(edge, request(port, "/", "POST", f"Content-Length: {64 << 20}\r\n")) as client,
    ):
        sent = 0

        async def upload() -> None:
            nonlocal sent
            for _ in range(64):
                client.send(bytes(1 << 20))
                await client.writer.drain()
                sent += 1

        task = asyncio.create_task(upload())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 40
        go.set()
        await task
        assert (await client.answer())[2] == b"ok"


async def test_connections_to_the_server_are_kept(edge: Edge) -> None:
    peers = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        await answering(OK)(reader, writer)

    async with serving(handle) as port:
        for _ in range(3):
            async with raw(edge, request(port)) as client:
                await client.answer()
        assert len(peers) == 1


async def test_answers_may_come_byte_by_byte(edge: Edge) -> None:
    body = b"3;x=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            for byte in b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

    async with serving(handle) as port, raw(edge, request(port) * 2) as client:
        for _ in range(2):
            assert b" 103 " in await client.head()
            assert b" 200 " in await client.head()
            assert await client.reader.readexactly(len(body)) == body


async def test_kept_connections_expire(directory: MemoryDirectory) -> None:
    directory.add()
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        assert await reader.read() == b""
        ended.set()

    async with (
        edge_for(directory, limits=Limits(pool_time=0.1)) as edge,
        serving(handle) as port,
        raw(edge, request(port)) as client,
    ):
        await client.answer()
        await ended.wait()


async def test_small_writes_are_sent_at_once_on_both_sides(edge: Edge) -> None:
    async with serving(answering(OK)) as port, raw(edge, request(port)) as client:
        await client.answer()
        kept = [upstream.transport for idle in edge.pool._idle.values() for upstream in idle]
        transports = [accepted.transport for accepted in edge._clients] + kept
        assert len(transports) == 2
        for transport in transports:
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_kept_connection_that_died_is_replaced(edge: Edge) -> None:
    """The server ends each connection when the second request comes."""
    served = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readuntil(b"\r\n\r\n")
        served += 1
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async with serving(handle) as port, raw(edge) as client:
        for _ in range(3):
            client.send(request(port))
            assert (await client.answer())[2] == b"ok"
        assert served == 3


async def test_user_ports_learn_where_a_request_came_from(directory: MemoryDirectory) -> None:
    directory.add(mask_request_host="custom.example.com:${PORT}")
    seen: list[bytes] = []
    spoofed = (
        "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n"
        "Connection: X-Hop, keep-alive, Host\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nTE: gzip\r\n"
        "X-Access-Token: kept\r\n"
    )
    async with edge_for(directory) as edge, serving(answering(OK, seen=seen)) as port:
        async with raw(edge, request(port, extra=spoofed)) as client:
            await client.answer()
        head = seen[0].decode()
        assert f"Host: custom.example.com:{port}\r\n" in head
        assert head.count("Host: ") == 2  # the other is X-Forwarded-Host
        assert "X-Forwarded-For: 127.0.0.1\r\n" in head
        assert "X-Forwarded-Host: 127.0.0.1\r\n" in head
        assert "X-Forwarded-Proto: http\r\n" in head
        assert "X-Access-Token: kept" in head
        for gone in ("6.6.6.6", "gopher", "X-Hop", "Keep-Alive", "Proxy-Connection", "TE:", "Connection"):
            assert gone not in head
        async with serving(answering(OK, seen=seen), port=49983):
            async with raw(edge, request(49983)) as client:
                await client.answer()
            assert b"Host: 127.0.0.1\r\n" in seen[1]


async def test_the_agents_token_reaches_the_agent_alone(directory: MemoryDirectory) -> None:
    """Whoever listens on another port may be any user of the sandbox; an application's own tokens are its own matter."""
    directory.add(access_token="agents")
    seen: list[bytes] = []
    sent = "X-Access-Token: agents\r\nX-Sandpit-Control: guess\r\n"
    async with edge_for(directory) as edge:
        for port in (free_port(), 49999, 49983, 49982):
            async with serving(answering(OK, seen=seen), port=port), raw(edge, request(port, extra=sent)) as client:
                assert (await client.answer())[0] == 200
            assert (b"X-Access-Token: agents" in seen[-1]) == (port in (49983, 49982))
            assert b"control" not in seen[-1].lower()
        for other in ("X-Access-Token: other\r\n", "X-Access-Token:  \r\n"):
            async with serving(answering(OK, seen=seen)) as port, raw(edge, request(port, extra=other)) as client:
                assert (await client.answer())[0] == 200
            assert b"X-Access-Token:" in seen[-1]


async def test_the_relay_gets_the_edges_secret(directory: MemoryDirectory) -> None:
    target = directory.add(relay_secret="edges")
    asked: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"+")
        await answering(OK)(reader, writer)

    hidden = free_port()
    async with edge_for(directory) as edge, serving(relay, port=49981), raw(edge, request(hidden)) as client:
        assert (await client.answer())[2] == b"ok"
    assert asked == [b"%d edges\n" % hidden]
    assert "edges" not in repr(target)


async def test_servers_on_the_sandboxs_loopback_are_reached_over_the_relay(edge: Edge) -> None:
    hidden = free_port()
    asked: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(line := await reader.readline())
        if int(line) != hidden:
            writer.write(b"-")
            return
        writer.write(b"+")
        await answering(OK)(reader, writer)

    async with serving(relay, port=49981):
        async with raw(edge, request(hidden) * 2) as client:
            assert (await client.answer())[2] == b"ok"
            assert (await client.answer())[2] == b"ok"
        assert asked == [b"%d\n" % hidden]
        async with raw(edge, request(free_port())) as client:
            assert b"port is not open" in (await client.answer())[2]
        async with raw(edge, request(49983)) as client:
            assert b"port is not open" in (await client.answer())[2]
        assert len(asked) == 2


async def test_a_relay_that_says_nothing_does_not_hold_the_client(directory: MemoryDirectory) -> None:
    directory.add()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    limits = Limits(dial_time=0.2)
    async with (
        edge_for(directory, limits=limits) as edge,
        serving(mute, port=49981),
        raw(edge, request(free_port())) as client,
    ):
        assert (await client.answer())[0] == 502


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "cert.pem"
    key = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", path, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_https_ports_are_spoken_to_over_tls(directory: MemoryDirectory, certificate: Path) -> None:
    tls = server_tls(certificate)
    async with serving(answering(OK), ssl=tls) as port:
        directory.add(https_ports=frozenset({port}))
        async with edge_for(directory) as edge, raw(edge, request(port) * 2) as client:
            assert (await client.answer())[2] == b"ok"
            assert (await client.answer())[2] == b"ok"


async def test_a_tls_port_without_tls_is_refused(directory: MemoryDirectory) -> None:
    async with serving(answering(OK)) as port:
        directory.add(https_ports=frozenset({port}))
        async with edge_for(directory, limits=Limits(dial_time=0.3)) as edge, raw(edge, request(port)) as client:
            assert (await client.answer())[0] == 502


async def test_a_sandboxs_end_cuts_tls_clients(directory: MemoryDirectory, certificate: Path) -> None:
    directory.add()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\npart")
        await reader.read()

    async with edge_for(directory, ssl_context=server_tls(certificate)) as edge, serving(handle) as port:
        context = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection("localhost", edge.tls_addresses[0][1], ssl=context)
        writer.write(request(port))
        await reader.readuntil(b"part")
        directory.kill(SANDBOX)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_the_tls_listener(directory: MemoryDirectory, certificate: Path) -> None:
    directory.add()
    seen: list[bytes] = []
    async with (
        edge_for(directory, ssl_context=server_tls(certificate)) as edge,
        serving(answering(OK, seen=seen)) as port,
    ):
        context = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(headers=headers(port), verify=context) as client:
            for _ in range(2):
                answer = await client.get(f"https://localhost:{edge.tls_addresses[0][1]}/")
                assert answer.text == "ok"
        assert b"X-Forwarded-Proto: https\r\n" in seen[0]
