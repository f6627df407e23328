"""Many connections, slow ones, and heads without end: strangers need no key for these."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.abuse.front import FrontBox, head, raw
from tests.live import Live

from sandpit.api.http import connections

if TYPE_CHECKING:
    from collections.abc import Iterator


def connect(url: str, client: str = "127.0.0.1") -> socket.socket:
    """A connection from one of the addresses that loopback has."""
    target = httpx.URL(url)
    return socket.create_connection((target.host, target.port or 80), timeout=30, source_address=(client, 0))


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, at most so far (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


@contextmanager
def few_descriptors(soft: int) -> Iterator[None]:
    """What this process starts may open few files, as from a login shell."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def own(built_images: None) -> Iterator[Live]:
    """A server that was started from a shell that allows 256 descriptors."""
    server = Live({"SANDPIT_POOL__SIZE": "0"})
    with few_descriptors(256):
        server.start()
    yield server
    server.stop()
    server.remove()


def test_connections_that_say_nothing(own: Live) -> None:
    """Neither port lets idle connections, of one client or of many, take what others' working ones need."""
    with ExitStack() as idle:
        for url in (own.api_url, own.edge_url):
            for number in range(connections.MAX_CONNECTIONS):
                connection = idle.enter_context(
                    connect(url, f"127.0.2.{1 + number * 4 // connections.MAX_CONNECTIONS}")
                )
                if number % 2:
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
        box = FrontBox.create(own)
        assert box.alive()
        with ExitStack() as more:
            for _ in range(connections.CLIENT_CONNECTIONS):  # however many of the idle ones had to go meanwhile
                more.enter_context(connect(own.api_url, "127.0.3.1"))
            with connect(own.api_url, "127.0.3.1") as refused:
                assert refused.recv(4096).startswith(b"HTTP/1.1 503 ")
            assert own.api.get("/health").status_code == 200
            assert box.alive()
        box.kill()


def pour(url: str, start: bytes, more: bytes, size: int) -> bytes:
    """Send `more` until `size` bytes went or the server had enough; its answer."""
    with connect(url) as client:
        with suppress(OSError):
            client.sendall(start)
            for _ in range(size // len(more)):
                client.sendall(more)
        with suppress(OSError):
            return client.recv(4096)
    return b""


@pytest.mark.parametrize("endless", [b"GET /v2/sandboxes HTTP/1.1\r\nX-Long: ", b"GET /", b"GET / HTTP/1.1\r\n"])
def test_a_head_without_end_is_not_collected(live: Live, endless: bytes) -> None:
    more = b"X-Header: x\r\n" * 5000 if endless.endswith(b"\r\n") else b"x" * 65536
    for url in (live.api_url, live.edge_url):
        before = resident(live.process.pid)
        answer = pour(url, endless, more, 128 << 20)
        assert answer[9:12] in (b"431", b""), answer  # none where the reset overtook it
        assert resident(live.process.pid) < before + (16 << 20)


@pytest.mark.parametrize("endless", [b"0\r\nX-Long: ", b"0\r\n", b"1;x="])
def test_trailers_and_chunk_headers_without_end_are_not_collected(live: Live, endless: bytes) -> None:
    start = head("POST", "/v2/sandboxes", ("X-API-KEY", live.key), ("Transfer-Encoding", "chunked"))
    more = b"X-Trailer: x\r\n" * 5000 if endless == b"0\r\n" else b"x" * 65536
    for url in (live.api_url, live.edge_url):
        before = resident(live.process.pid)
        pour(url, start + endless, more, 128 << 20)
        assert resident(live.process.pid) < before + (16 << 20)


def test_chunked_bodies_are_read_whole(live: Live) -> None:
    """The bounds must not hit a body that comes in many pieces."""
    start = head("POST", "/v2/sandboxes", ("X-API-KEY", live.key), ("Transfer-Encoding", "chunked"))
    body = b'{"templateID": "nothing"%s}' % (b" " * 100_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    assert raw(live.api_url, start + chunks + b"0\r\n\r\n")[0] == 404
    headers = {"X-API-KEY": live.key}
    with httpx.Client(base_url=live.api_url, headers=headers, trust_env=False) as kept:
        for _ in range(3):
            assert kept.post("/v2/sandboxes", content=iter([b" " * 1024] * 500 + [b"{}"])).status_code == 400


def test_slow_heads_and_bodies_end(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's limits of time, shortened: what is sent byte by byte is refused, what is complete is served."""
    import asyncio

    from sandpit.server.app import _asgi

    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.3)

    async def app(scope: object, receive: object, send: object) -> None:
        while (event := await receive()).get("more_body"):  # type: ignore[operator]
            pass
        if event["type"] == "http.disconnect":
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    async def ask(sock: socket.socket, *pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.1)
        answer = await reader.read(4096)
        writer.close()
        return answer

    async def main() -> list[bytes]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            async with _asgi(app, sock, http=connections.BoundedConnection):
                slow = [b"GET / HT", b"T", b"P", b"/"]
                post = b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
                return [
                    await ask(sock), await ask(sock, *slow), await ask(sock, b"\r\n", b"\r\n"), await ask(sock, post, b"1", b"2"),
                    await ask(sock, post, b"123456789"), await ask(sock, post + b"123456789", post + b"1"),
                ]  # fmt: skip

    answers = asyncio.run(main())
    assert [answer[9:12] for answer in answers] == [b"408", b"408", b"408", b"408", b"204", b"204"]


def test_clients_of_the_api_that_take_nothing_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from sandpit.server.app import _asgi

    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)

    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": bytes(32 << 20)})  # type: ignore[operator]

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            async with _asgi(app, sock, http=connections.BoundedConnection):
                _, writer = await asyncio.open_connection(*sock.getsockname())
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                while not len(connections.BoundedConnection.peers):
                    await asyncio.sleep(0.02)
                while len(connections.BoundedConnection.peers):
                    await asyncio.sleep(0.02)
                writer.transport.abort()

    asyncio.run(main())


def test_requests_ahead_of_their_answers_are_not_collected(live: Live) -> None:
    before = resident(live.process.pid)
    request = head("GET", "/v2/sandboxes?limit=100", ("X-API-KEY", live.key)).replace(b"Connection: close\r\n", b"")
    for url in (live.api_url, live.edge_url):
        with connect(url) as client, suppress(OSError):
            client.settimeout(1)
            for _ in range(1000):
                client.sendall(request * 200)
    assert resident(live.process.pid) < before + (32 << 20)
    assert live.api.get("/health").status_code == 200
