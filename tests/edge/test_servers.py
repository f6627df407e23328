"""Everyday servers behind the edge: uvicorn applications."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from tests.edge.edge_support import ADDRESS, SANDBOX, MemoryDirectory
from websockets.asyncio.client import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from sandpit.edge import Edge

left = asyncio.Event()


async def digest(request: Request) -> PlainTextResponse:
    found = hashlib.sha256()
    async for piece in request.stream():
        found.update(piece)
    return PlainTextResponse(found.hexdigest())


async def mirror(request: Request) -> StreamingResponse:
    body = await request.body()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    return StreamingResponse(pieces())


async def events(request: Request) -> StreamingResponse:
    async def forever() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: x\n\n"
                await asyncio.sleep(0.01)
        finally:
            left.set()

    return StreamingResponse(forever(), media_type="text/event-stream")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text[::-1])


APP = Starlette(
    routes=[
        Route("/digest", digest, methods=["POST", "PUT"]),
        Route("/mirror", mirror, methods=["POST"]),
        Route("/events", events),
        WebSocketRoute("/socket", socket),
    ]
)


@asynccontextmanager
async def uvicorn_serving() -> AsyncIterator[int]:
    config = uvicorn.Config(APP, host=ADDRESS, port=0, log_level="error", lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


def client_for(edge: Edge, port: int) -> httpx.AsyncClient:
    base = "http://{}:{}".format(*edge.addresses[0])
    return httpx.AsyncClient(
        base_url=base, headers={"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(port)}, trust_env=False
    )


async def test_many_bodies_at_once_arrive_where_they_belong(edge: Edge) -> None:
    chance = random.Random(1)

    async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 7001):
            yield data[start : start + 7001]

    async def one(client: httpx.AsyncClient) -> None:
        data = os.urandom(chance.choice([0, 1, 1000, 65536, 300_000]))
        content = in_pieces(data) if chance.random() < 0.5 else data
        if chance.random() < 0.5:
            assert (await client.post("/digest", content=content)).text == hashlib.sha256(data).hexdigest()
        else:
            assert (await client.post("/mirror", content=content)).content == data

    async with uvicorn_serving() as port, client_for(edge, port) as client:
        await asyncio.gather(*(one(client) for _ in range(150)))
    assert not edge._exchanges


async def test_an_application_learns_that_its_reader_left(edge: Edge) -> None:
    left.clear()
    async with uvicorn_serving() as port, client_for(edge, port) as client:
        async with client.stream("GET", "/events") as answer:
            await anext(answer.aiter_lines())
        await left.wait()


async def test_application_websockets_pass(edge: Edge) -> None:
    async with uvicorn_serving() as port:
        url = "ws://{}:{}/socket".format(*edge.addresses[0])
        headers = {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(port)}
        async with connect(url, additional_headers=headers, proxy=None) as client:
            await client.send("abc")
            assert await client.recv() == "cba"


async def test_what_flows_is_noticed(edge: Edge, directory: MemoryDirectory) -> None:
    """When a request begins, and then once a second at most; not while a stream is silent."""
    async with uvicorn_serving() as port, client_for(edge, port) as client:
        await client.post("/digest", content=b"x" * 300_000)
        assert directory.touched == [SANDBOX]
        async with client.stream("GET", "/events") as answer:
            lines = answer.aiter_lines()
            async with asyncio.timeout(10):
                while len(directory.touched) < 4:
                    await anext(lines)
        url = "ws://{}:{}/socket".format(*edge.addresses[0])
        headers = {"E2b-Sandbox-Id": SANDBOX, "E2b-Sandbox-Port": str(port)}
        async with connect(url, additional_headers=headers, proxy=None) as websocket:
            seen = len(directory.touched)
            await asyncio.sleep(1.2)
            assert len(directory.touched) == seen
            await websocket.send("abc")
            await websocket.recv()
            assert len(directory.touched) == seen + 1
