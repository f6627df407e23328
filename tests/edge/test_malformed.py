"""Bytes that servers read differently, and clients that are too slow or too many."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.edge.edge_support import OK, MemoryDirectory, answering, edge_for, raw, request, serving

from sandpit.edge import Edge, Limits

CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "extra",
    [
        "Content-Length: 3\r\nContent-Length: 4\r\n", "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\n", "Content-Length: +3\r\n", "Content-Length: -3\r\n", "Content-Length: 0x3\r\n",
        "Content-Length: 3 3\r\n", "Content-Length:\r\n", "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 3\r\n" + CHUNKED, CHUNKED + "Content-Length: 3\r\n", CHUNKED + CHUNKED,
        "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding:\r\n", "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding : chunked\r\n", " Transfer-Encoding: chunked\r\n", "X: a\r\n b: c\r\n", "X: a\rb: c\r\n",
        "X: a\nTransfer-Encoding: chunked\r\n", "X: a\0b\r\n", "X\0: a\r\n", "X: \x7f\r\n", ": empty\r\n",
        "nocolon\r\n",
        "Transfer-Encoding: chunked\x0b\r\n", "Content-Length: 3\x0b\r\n", "X y: a\r\n",
    ],
)  # fmt: skip
async def test_ambiguous_heads_are_refused(edge: Edge, extra: str) -> None:
    seen: list[bytes] = []
    async with serving(answering(OK, seen=seen)) as port:
        async with raw(edge, request(port, "/", "POST", extra) + b"0\r\n\r\n" + request(port)) as client:
            status, fields, body = await client.answer()
            assert status in {400, 501}
            assert fields["connection"] == "close"
            assert json.loads(body)["code"] == status
            assert await client.rest() == b""
        assert not seen


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    ],
)
async def test_what_is_no_request_is_refused(edge: Edge, data: bytes, status: int) -> None:
    async with raw(edge, data) as client:
        assert (await client.answer())[0] == status
        assert await client.rest() == b""


async def test_broken_chunks_never_complete_the_request(edge: Edge) -> None:
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert b"0\r\n\r\n" not in await reader.read()
        ended.set()

    async with serving(handle) as port, raw(edge, request(port, "/", "POST", CHUNKED)) as client:
        client.send(b"3\r\nabcX\r\n0\r\n\r\n")
        assert (await client.answer())[0] == 400
        await ended.wait()


async def test_the_head_may_come_byte_by_byte(edge: Edge) -> None:
    async with serving(answering(OK)) as port, raw(edge) as client:
        for byte in request(port):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[2] == b"ok"


async def test_a_head_has_a_limit(edge: Edge) -> None:
    async with serving(answering(OK)) as port:
        async with raw(edge, request(port, extra="X: " + "a" * 60_000 + "\r\n")) as client:
            assert (await client.answer())[0] == 200
        for data in (request(port, extra="X: " + "a" * 66_000 + "\r\n"), b"GET /" + b"a" * 70_000):
            async with raw(edge, data) as client:
                assert (await client.answer())[0] == 431


async def test_slow_heads_are_ended(directory: MemoryDirectory) -> None:
    async with edge_for(directory, limits=Limits(head_time=0.2)) as edge:
        async with raw(edge, b"GET / HT") as client:
            assert (await client.answer())[0] == 408
            assert await client.rest() == b""
        async with raw(edge) as client:
            assert await client.rest() == b""


async def test_idle_connections_are_ended_busy_ones_are_not(directory: MemoryDirectory) -> None:
    directory.add()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.6)
        writer.write(OK)

    limits = Limits(idle_time=0.2, head_time=0.2)
    async with (
        edge_for(directory, limits=limits) as edge,
        serving(slow) as port,
        raw(edge, request(port)) as client,
    ):
        assert (await client.answer())[2] == b"ok"
        assert await client.rest() == b""


async def test_too_many_connections_are_told(directory: MemoryDirectory) -> None:
    directory.add()
    async with (
        edge_for(directory, limits=Limits(connections=1)) as edge,
        serving(answering(OK)) as port,
        raw(edge, request(port)) as first,
    ):
        assert (await first.answer())[0] == 200
        async with raw(edge) as second:
            status, fields, body = await second.answer()
            assert (status, fields["retry-after"]) == (503, "1")
            assert "too many connections" in json.loads(body)["message"]
        first.send(request(port))
        assert (await first.answer())[0] == 200


async def test_one_sandbox_cannot_take_all(directory: MemoryDirectory) -> None:
    directory.add()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with edge_for(directory, limits=Limits(sandbox_requests=1)) as edge, serving(mute) as port:
        async with raw(edge, request(port)):
            await asyncio.sleep(0.1)
            async with raw(edge, request(port)) as second:
                status, _, body = await second.answer()
                assert (status, json.loads(body)["code"]) == (429, 429)
        await asyncio.sleep(0.1)
        assert not edge._exchanges


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n" * 99,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, b"",
    ],
)  # fmt: skip
async def test_bad_answers_become_502(edge: Edge, answer: bytes) -> None:
    async with serving(answering(answer, close=True)) as port, raw(edge, request(port)) as client:
        head = await client.head()
        while b" 100 " in head:
            head = await client.head()
        assert head.startswith(b"HTTP/1.1 502 ")


async def test_what_follows_an_answer_reaches_nobody(edge: Edge) -> None:
    """A server that sends a second answer unasked must not have it taken for another request's."""
    async with (
        serving(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as port,
        raw(edge, request(port)) as client,
    ):
        assert (await client.answer())[2] == b"ok"
        client.send(request(port))
        assert (await client.answer())[2] == b"ok"


async def test_a_slow_reader_gets_the_end_of_a_closing_answer(directory: MemoryDirectory) -> None:
    directory.add()
    size = 32 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    limits = Limits(linger_time=0.1, head_time=0.4, buffer_bytes=size)
    async with (
        edge_for(directory, limits=limits) as edge,
        serving(answering(answer)) as port,
        raw(edge, request(port, extra="Connection: close\r\n")) as client,
    ):
        await client.head()
        await asyncio.sleep(0.6)
        assert len(await client.rest()) == size
