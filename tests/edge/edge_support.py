"""Sandboxes are other loopback addresses: 127.0.0.2, 127.0.0.3, ...: their servers may use any port."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from sandpit.edge import Edge, Target

SANDBOX = "iabc123"
ADDRESS = "127.0.0.2"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class MemoryDirectory:
    """A directory that tests fill."""

    def __init__(self) -> None:
        self.running: dict[str, Target] = {}
        self.reasons: dict[str, str] = {}
        self.callbacks: list[Callable[[str], None]] = []
        self.waiting: dict[str, asyncio.Event] = {}
        self.wakes: list[str] = []
        self.touched: list[str] = []
        self.waking = asyncio.Event()
        self.hold_wake: asyncio.Event | None = None
        self.fail_wake: Exception | None = None

    def add(self, sandbox_id: str = SANDBOX, address: str = ADDRESS, **more: object) -> Target:
        target = Target(sandbox_id, address, **{"access_token": None, **more})  # type: ignore[arg-type]
        self.running[sandbox_id] = target
        return target

    def why_gone(self, sandbox_id: str) -> str:
        return self.reasons.get(sandbox_id, "")

    def kill(self, sandbox_id: str = SANDBOX, why: str = "") -> None:
        """It ends; `why`, if on its own."""
        self.reasons[sandbox_id] = why
        del self.running[sandbox_id]
        self._tell(sandbox_id)
        self._settled(sandbox_id)

    def hold(self, sandbox_id: str = SANDBOX) -> None:
        """It is being paused or copied."""
        self.running[sandbox_id] = replace(self.running[sandbox_id], state="held")
        self.waiting.setdefault(sandbox_id, asyncio.Event())
        self._tell(sandbox_id)

    def release(self, sandbox_id: str = SANDBOX, *, asleep: bool = False) -> None:
        """It runs on, or has been paused."""
        self.running[sandbox_id] = replace(self.running[sandbox_id], state="asleep" if asleep else "running")
        self._settled(sandbox_id)

    def _tell(self, sandbox_id: str) -> None:
        for callback in self.callbacks:
            callback(sandbox_id)

    def _settled(self, sandbox_id: str) -> None:
        if (event := self.waiting.pop(sandbox_id, None)) is not None:
            event.set()

    async def wake(self, sandbox_id: str) -> Target | None:
        if (event := self.waiting.get(sandbox_id)) is not None:
            self.waking.set()
            await event.wait()
            return self.find(sandbox_id)
        self.wakes.append(sandbox_id)
        event = self.waiting[sandbox_id] = asyncio.Event()
        self.waking.set()
        try:
            if self.hold_wake is not None:
                await self.hold_wake.wait()
            if self.fail_wake is not None:
                raise self.fail_wake
            if sandbox_id in self.running:
                self.release(sandbox_id)
            return self.find(sandbox_id)
        finally:
            self._settled(sandbox_id)

    def touch(self, sandbox_id: str) -> None:
        self.touched.append(sandbox_id)

    def find(self, sandbox_id: str) -> Target | None:
        return self.running.get(sandbox_id)

    def targets(self) -> Iterable[Target]:
        return self.running.values()

    def on_gone(self, callback: Callable[[str], None]) -> None:
        self.callbacks.append(callback)


@asynccontextmanager
async def edge_for(directory: MemoryDirectory, **options: object) -> AsyncIterator[Edge]:
    edge = Edge(directory, host="127.0.0.1", port=0, **options)  # type: ignore[arg-type]
    await edge.start()
    try:
        yield edge
    finally:
        await edge.stop()


@asynccontextmanager
async def serving(handler: Handler, address: str = ADDRESS, port: int = 0, **options: object) -> AsyncIterator[int]:
    """A raw server in a sandbox; yields its port. Connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(run, address, port, limit=2**20, **options)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(raw: bytes, *, seen: list[bytes] | None = None, close: bool = False) -> Handler:
    """A handler that answers each head with the same bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head)
            writer.write(raw)
            await writer.drain()
            if close:
                return

    return handle


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


def stop_reading(writer: asyncio.StreamWriter) -> None:
    """Take no more from the other side, which then cannot write more than the buffers between hold."""
    # typeshed knows a writer's transport as one that only writes; that of a connection does both.
    cast("asyncio.Transport", writer.transport).pause_reading()


class Raw:
    """A client without manners."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """An answer with a Content-Length, or none."""
        lines = (await self.head()).decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        body = await self.reader.readexactly(int(fields.get("content-length", "0")))
        return int(lines[0].split()[1]), fields, body

    async def rest(self) -> bytes:
        return await self.reader.read()

    def abort(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        reset(self.writer)


@asynccontextmanager
async def raw(edge: Edge, data: bytes = b"") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(*edge.addresses[0], limit=2**20)
    if data:
        writer.write(data)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def request(port: int | str, path: str = "/", method: str = "GET", extra: str = "", sandbox: str = SANDBOX) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nE2b-Sandbox-Id: {sandbox}\r\n"
        f"E2b-Sandbox-Port: {port}\r\n{extra}\r\n"
    ).encode()


def free_port(address: str = ADDRESS) -> int:
    """A port where nothing listens."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port
