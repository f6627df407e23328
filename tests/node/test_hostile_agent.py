"""Whoever answers in an agent's place may send anything: the node's client is bounded in bytes and total time, whatever comes."""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import json
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandpit.node.guests import agent as agent_module
from sandpit.node.guests import log as guestlog
from sandpit.node.guests.agent import Agent, AgentUnavailable, Identity
from sandpit.node.guests.control_secret import ControlSecret
from sandpit.protocol import ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

SOURCE = Path(__file__).resolve().parents[2] / "src/sandpit"
IDENTITY = Identity("s1", "t1", "token", {}, "user", None)
BLOCK = bytes(65536)
MEMORY = 24 << 20
"""What a hostile answer may cost at most. Each of them would be hundreds of megabytes, or have no end."""


async def forever(writer: asyncio.StreamWriter, piece: bytes, pause: float = 0.0) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)


def head(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


def answer(first: bytes, piece: bytes = b"", pause: float = 0.0) -> Script:
    """Send `first`, then `piece` for ever, or nothing more."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        if piece:
            await forever(writer, piece, pause)
        await writer.drain()
        await asyncio.sleep(100)

    return script


async def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()


def bomb() -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(BLOCK) for _ in range(2000)) + packer.flush()


BOMB = bomb()
"""Of 130 MB."""
CHUNKED = head("Transfer-Encoding: chunked")
ENDLESS: dict[str, Script] = {
    "silence": answer(b""),
    "a dripping status line": answer(b"HTTP/1.1 ", b"2", 0.05),
    "a dripping head": answer(b"HTTP/1.1 200 OK\r\n", b"a", 0.05),
    "a dripping body": answer(head("Content-Length: 1000000"), b" ", 0.05),
    "dripping chunks": answer(CHUNKED, b"1\r\n \r\n", 0.05),
    "header fields without end": answer(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    "one header field without end": answer(b"HTTP/1.1 200 OK\r\nA: ", BLOCK),
    "cookies without end": answer(b"HTTP/1.1 200 OK\r\n", b"Set-Cookie: a=b; Path=/\r\n" * 1000),
    "interim answers": answer(b"", head(status="100 Continue") * 1000),
    "early hints": answer(b"", head("Link: </a>", status="103 Early Hints") * 1000),
    "another protocol": answer(head("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols")),
    "a large body": answer(head("Content-Length: 10000000000000"), BLOCK),
    "chunks without end": answer(CHUNKED, b"10000\r\n" + BLOCK + b"\r\n"),
    "tiny chunks without end": answer(CHUNKED, b"1\r\n \r\n" * 10000),
    "one chunk of 4 GiB": answer(CHUNKED + b"ffffffff\r\n", BLOCK),
    "a chunk extension without end": answer(CHUNKED + b"1;", b"a" * 65536),
    "trailers without end": answer(CHUNKED + b"0\r\n", b"A: b\r\n" * 1000),
    "a body until the end of the connection": answer(head(), BLOCK),
    "compressed": answer(head("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}") + BOMB),
    "compressed in transfer": answer(head("Transfer-Encoding: gzip, chunked") + b"%x\r\n" % len(BOMB) + BOMB),
    "two lengths": answer(head("Content-Length: 1", "Content-Length: 100") + BLOCK),
    "length and chunks": answer(head("Content-Length: 1", "Transfer-Encoding: chunked"), BLOCK),
    "another status": answer(head("Content-Length: 0", status="299 Fine")),
    "an impossible status": answer(head("Content-Length: 0", status="099 What")),
    "a status of words": answer(head(status="abc OK")),
    "a redirect": answer(head("Location: /freeze", "Content-Length: 0", status="307 Temporary Redirect")),
    "no HTTP": answer(BLOCK, BLOCK),
    "another version": answer(b"HTTP/9.9 200 OK\r\n\r\n", BLOCK),
    "nothing": closes,
}


class Hostile:
    """A server in an agent's place that answers every request alike."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[Any]] = set()
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Hostile:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self.requests.append(await reader.read(65536))
            await self._script(writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def hostile(script: Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Agent, Hostile]]:
    async with Hostile(script) as server:
        monkeypatch.setattr(ports, "AGENT", server.port)
        agent = Agent("127.0.0.1", ControlSecret.new())
        try:
            yield agent, server
        finally:
            await agent.close()


def peak() -> int:
    """The most memory that this process has had since `reset`, in bytes (proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def reset() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def calls(agent: Agent, tmp_path: Path) -> dict[str, Callable[[], Awaitable[object]]]:
    """Everything that the node asks agents."""
    targets = (tmp_path / f"disk{number}" for number in range(100))

    async def content() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield BLOCK

    return {
        "health": lambda: agent.wait_healthy(0.3),
        "claim": lambda: agent.claim(IDENTITY),
        "freeze": lambda: agent.freeze(0.3),
        "unfreeze": lambda: agent.unfreeze(0.3),
        "look": agent.look,
        "settle": agent.settle,
        "journal": lambda: agent.journal(0, wait=False),
        "journal, waiting": lambda: agent.journal(0, wait=True),
        "disk": lambda: agent.save_disk(next(targets), stop_processes=True, limit=1 << 20),
        "changes": lambda: agent.save_changes(next(targets), limit=1 << 20),
        "upload": lambda: agent.upload("/file", content()),
        "start": lambda: agent.start("true", user="root", seconds=0.3),
        "run": lambda: agent.run("true", user="root", seconds=0.3),
        "follow": lambda: agent.follow("true", user="root", output=lambda *_: None, seconds=0.3),
    }


@pytest.mark.parametrize("kind", list(ENDLESS))
def test_every_call_ends(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them with an error of its own kind, in bounded time, at no cost in memory."""
    for name in dir(agent_module):
        if name.endswith("_SECONDS"):
            monkeypatch.setattr(agent_module, name, 0.3)

    async def ask() -> None:
        async with hostile(ENDLESS[kind], monkeypatch) as (agent, server):
            before = reset()
            waiting = calls(agent, tmp_path)
            async with asyncio.timeout(30):
                results = await asyncio.gather(*(call() for call in waiting.values()), return_exceptions=True)
            for name, result in zip(waiting, results, strict=True):
                healthy = name == "health" and result is None  # a good status is all that it needs
                assert healthy or type(result) is AgentUnavailable, (name, result)
            assert all(b"Accept-Encoding: identity" in request for request in server.requests if request)
            assert peak() - before < MEMORY

    asyncio.run(ask())


def stream(*messages: bytes | dict[str, Any], end: bytes = b"{}") -> bytes:
    """An answer with these messages, in chunks."""
    bodies = [json.dumps(one).encode() if isinstance(one, dict) else one for one in messages]
    frames = [struct.pack(">BI", 0, len(body)) + body for body in bodies] + [struct.pack(">BI", 2, len(end)) + end]
    body = b"".join(frames)
    return CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def raw(frame: bytes) -> bytes:
    return CHUNKED + b"%x\r\n%b\r\n" % (len(frame), frame)


ENDED = {"event": {"end": {"exitCode": 0}}}
NONSENSE: dict[str, bytes] = {
    "a message of 4 GiB": raw(struct.pack(">BI", 0, 0xFFFFFFFF)),
    "a compressed message": raw(struct.pack(">BI", 1, 2) + b"{}"),
    "unknown flags": raw(struct.pack(">BI", 0x80, 2) + b"{}"),
    "deep lists": stream(b"[" * 100_000),
    "deep objects": stream(b'{"event":' * 100_000),
    "a number of many digits": stream(b'{"event":{"end":{"exitCode":' + b"9" * 100_000 + b"}}}"),
    "no JSON": stream(b"\xff\xfe"),
    "nothing": stream(b""),
    "a list": stream(b"[]"),
    "null": stream(b"null"),
    "no event": stream({}),
    "an event that is a list": stream({"event": []}),
    "an event that is text": stream({"event": "start"}),
    "data that is a list": stream({"event": {"data": ["stdout"]}}, ENDED),
    "data that is a number": stream({"event": {"data": {"stdout": 7}}}, ENDED),
    "data that is no base64": stream({"event": {"data": {"stdout": "a"}}}, ENDED),
    "data beyond ASCII": stream({"event": {"data": {"stdout": "\u20ac\u20ac\u20ac\u20ac"}}}, ENDED),
    "an end that is a number": stream({"event": {"end": 1}}),
    "an exit code that is text": stream({"event": {"end": {"exitCode": "0"}}}),
    "an exit code that is true": stream({"event": {"end": {"exitCode": True}}}),
    "an exit code that is infinite": stream(b'{"event":{"end":{"exitCode":Infinity}}}'),
    "an end without an end": stream({"event": {"start": {"pid": 1}}}),
    "an error that is text": stream(end=b'{"error":"no"}'),
    "an error of lists": stream(end=b'{"error":{"code":[],"message":[]}}'),
    "an end that is a list": stream(end=b"[]"),
}


@pytest.mark.parametrize("kind", list(NONSENSE))
def test_nonsense_in_a_stream(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with hostile(answer(NONSENSE[kind]), monkeypatch) as (agent, _):
            with pytest.raises(AgentUnavailable):
                await agent.run("true", user="root", seconds=5)

    asyncio.run(ask())


@pytest.mark.parametrize("start", [{}, {"pid": None}, {"pid": "1"}, {"pid": 1.5}, [], 7])
def test_nonsense_at_a_start(start: object, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with hostile(answer(stream({"event": {"start": start}})), monkeypatch) as (agent, _):
            with pytest.raises(AgentUnavailable):
                await agent.start("true", user="root")

    asyncio.run(ask())


def test_much_output_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB of a ready command: its end is kept, and everybody else goes on meanwhile."""
    data = base64.b64encode(bytes(49152)).decode()
    body = json.dumps({"event": {"data": {"stdout": data}}}).encode()
    frame = struct.pack(">BI", 0, len(body)) + body
    last = json.dumps(ENDED).encode()
    end = struct.pack(">BI", 0, len(last)) + last

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for _ in range(300_000_000 // 49152):
            writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await writer.drain()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
        await writer.drain()
        await asyncio.sleep(100)

    async def ask() -> None:
        async with hostile(script, monkeypatch) as (agent, _):
            before = reset()
            code, output = await agent.run("true", user="root", seconds=55)
            assert code == 0
            assert 0 < len(output) <= 1 << 20
            assert peak() - before < MEMORY

    asyncio.run(ask())


def test_a_flood_of_events_leaves_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones cost the most: they are read as fast as they may be, no faster."""
    body = b'{"event":{"keepalive":{}}}'
    frame = (struct.pack(">BI", 0, len(body)) + body) * 1000
    seen = 0

    async def count(agent: Agent) -> None:
        nonlocal seen
        async with agent._events("true", "root", 4.0, None) as events:
            async for _event in events:
                seen += 1

    async def ask() -> None:
        chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
        async with hostile(answer(CHUNKED, chunk), monkeypatch) as (agent, _):
            with pytest.raises(AgentUnavailable):
                await count(agent)

    asyncio.run(ask())
    assert 20_000 <= seen < 60_000


def test_journals_that_make_no_sense() -> None:
    """Whatever a journal says, reading it raises nothing, and gives no more than it may."""
    events = [{"position": number, "level": "info", "logger": "agent", "message": "m"} for number in range(1, 2000)]
    assert len(guestlog.parse(json.dumps({"events": events}).encode(), 0, 1.0)) == guestlog.MAX_EVENTS
    for body in (
        b"[" * 1_000_000,
        b'{"events":' * 100_000,
        b'{"events":[{"position":' + b"9" * 10_000 + b"}]}",
        b'{"events":[{"position":1e999,"level":"info","logger":"agent","message":"m"}]}',
        b'{"events":[{"position":1,"level":["info"],"logger":{},"message":"m"}]}',
        b'{"events":[{"position":true,"level":"info","logger":"agent","message":"m"}]}',
        b'{"events":{"a":1}}',
        b"\xff",
        b"",
    ):
        assert guestlog.parse(body, 0, 1e9) == []


def test_one_way_to_read_from_guests() -> None:
    """No other module of the server's talks HTTP or opens connections: an unbounded call cannot be written by accident."""
    clients = {"httpx", "httpcore", "aiohttp", "requests", "http.client", "urllib.request", "websockets", "urllib3"}
    openers = {"open_connection", "create_connection", "open_unix_connection", "create_unix_connection", "sock_connect"}
    asking = {"node/network/resolver.py", "node/runtime/gvisor_control.py"}  # the host's resolvers, and the sentry
    allowed = {"node/guests/http.py", "edge/upstream.py", *asking}
    others = {"cli", "guest", "sdk"}
    found = set()
    for part in SOURCE.iterdir():
        for path in part.rglob("*.py") if part.name not in others else ():
            for piece in ast.walk(ast.parse(path.read_text())):
                names = {piece.attr} if isinstance(piece, ast.Attribute) else set()
                names |= {alias.name for alias in piece.names} if isinstance(piece, ast.Import) else set()
                names |= {piece.module or ""} if isinstance(piece, ast.ImportFrom) else set()
                if names & (clients | openers):
                    found.add(str(path.relative_to(SOURCE)))
    assert found == allowed
