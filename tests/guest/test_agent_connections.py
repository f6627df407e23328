"""What code in the sandbox can make the agent hold by connecting to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from uvicorn.config import Config

from sandpit.guest.agent import connections
from sandpit.guest.agent.connections import MAX_CONNECTIONS, MAX_HEADERS, Connection, Connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.guest.conftest import AgentClient

GATEWAY = "127.0.0.2"
HEAD = b"GET /health HTTP/1.1\r\nhost: x\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@contextlib.contextmanager
def connected(port: int, count: int, sent: bytes, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Connections that have sent something."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, (source, 0)))
            with contextlib.suppress(ConnectionError):  # refused already
                one.sendall(sent)
            made.append(one)
        yield made


def is_open(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        while data := one.recv(65536):
            del data
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


def settles(sockets: list[socket.socket], expected: int) -> bool:
    """Whether as many stay open as expected."""
    for _ in range(100):
        if sum(map(is_open, sockets)) == expected:
            return True
        time.sleep(0.1)
    return False


def answer(port: int, sent: bytes) -> bytes:
    """All that comes back before the server closes."""
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        received = b""
        with contextlib.suppress(ConnectionError):
            one.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while data := one.recv(65536):
                received += data
        return received


def port_of(agent: AgentClient) -> int:
    return int(agent.url.rpartition(":")[2])


def memory_mb(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) >> 10


def test_many_unfinished_heads(distant_agent: AgentClient) -> None:
    port, before = port_of(distant_agent), memory_mb(distant_agent.pid)
    many_small = HEAD + b"a:\r\n" * (MAX_HEADERS - 10) + b"b: " + b"x" * 60_000
    with connected(port, 400, many_small) as others:
        assert settles(others, MAX_CONNECTIONS)
        assert memory_mb(distant_agent.pid) - before < 100
        with (
            connected(port, 200, HEAD, GATEWAY) as of_gateway,
            httpx.Client(transport=httpx.HTTPTransport(local_address=GATEWAY), base_url=distant_agent.url) as client,
        ):
            assert settles(of_gateway, 200)
            assert client.get("/health").status_code == 204
        with pytest.raises(httpx.TransportError):
            distant_agent.http.get("/health")
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            assert distant_agent.http.get("/health").status_code == 204
            return
        time.sleep(0.1)
    pytest.fail("ended connections still count")


def test_websockets_count_until_they_end(distant_agent: AgentClient) -> None:
    port = int(distant_agent.legacy.rpartition(":")[2])
    for _ in range(2):
        with connected(port, MAX_CONNECTIONS, UPGRADE) as sockets:
            for one in sockets:
                assert one.recv(12) == b"HTTP/1.1 101"
            with connected(port, 5, UPGRADE) as more:
                assert settles(more, 0)
        for _ in range(100):
            if b"pong" in answer(port, b"GET /ping HTTP/1.0\r\n\r\n"):
                break
            time.sleep(0.1)
        else:
            pytest.fail("ended websockets still count")


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"a: " + b"x" * (1 << 20),
        b"GET /" + b"x" * (1 << 20),
        HEAD + b"a:\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"x" * (1 << 20),
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 100_000,
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * (1 << 20),
        HEAD + b"\r\n" + HEAD + b"a: " + b"x" * (1 << 20),
        (HEAD + b"\r\n") * 50_000,
        b"\r\n" * 100_000,
    ],
    ids=["header", "url", "headers", "trailer", "trailers", "extension", "second", "pipelined", "lines"],
)
def test_what_is_no_body_is_short(distant_agent: AgentClient, sent: bytes) -> None:
    before = memory_mb(distant_agent.pid)
    assert answer(port_of(distant_agent), sent).count(b"HTTP/1.1 204") < 100
    assert memory_mb(distant_agent.pid) - before < 30
    assert distant_agent.http.get("/health").status_code == 204


def test_a_large_head_has_an_answer(distant_agent: AgentClient) -> None:
    for extra in (b"a: " + b"x" * 70_000, b"a:\r\n" * (MAX_HEADERS + 1)):
        assert answer(port_of(distant_agent), HEAD + extra).startswith(b"HTTP/1.1 431 ")


def test_ordinary_requests_pass(distant_agent: AgentClient) -> None:
    """One after the other, several at once, long bodies."""
    port = port_of(distant_agent)
    last = HEAD + b"connection: close\r\n\r\n"
    assert answer(port, (HEAD + b"\r\n") * 3 + last).count(b"HTTP/1.1 204") == 4
    assert answer(port, HEAD + b"a: " + b"x" * 60_000 + b"\r\nconnection: close\r\n\r\n").startswith(b"HTTP/1.1 204")
    for _ in range(3):
        content = b"x" * 3_000_000
        written = distant_agent.http.post("/files?path=/tmp/sandpit-long&username=root", files={"file": content})
        assert written.status_code == 200, written.text
        assert distant_agent.http.get("/files?path=/tmp/sandpit-long&username=root").content == content
    Path("/tmp/sandpit-long").unlink()


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("begins", [b"", b"\r\n", HEAD, HEAD + b"\r\n", HEAD + b"\r\n" + HEAD, HEAD + b"\r\n\r\n"])
def test_connections_that_wait_are_closed(monkeypatch: pytest.MonkeyPatch, begins: bytes) -> None:
    """Before a head, inside it, between requests, inside a later one: also when a byte comes now and then."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    config = Config(_hello, http=Connection, ws="none", lifespan="off", log_config=None, timeout_keep_alive=3600)
    config.load()

    async def wait(gateway: str, *, trickle: bool) -> bool:
        """Whether the connection ends."""
        state = Connections(gateway)
        server = await asyncio.get_running_loop().create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(begins)
            try:
                async with asyncio.timeout(20 if gateway != "127.0.0.1" else 1.5):
                    while not reader.at_eof():
                        with contextlib.suppress(TimeoutError, ConnectionError):
                            await asyncio.wait_for(reader.read(1000), 0.1)
                        if trickle:
                            writer.write(b"\r\n" if begins.endswith(b"\r\n\r\n") or not begins.strip() else b"a")
            except TimeoutError:
                return False
            finally:
                writer.transport.abort()
            return True

    assert asyncio.run(wait("169.254.0.22", trickle=False))
    assert asyncio.run(wait("169.254.0.22", trickle=True))
    assert not asyncio.run(wait("127.0.0.1", trickle=False))
