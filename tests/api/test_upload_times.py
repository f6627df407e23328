"""How long uploads may take: as long as they come on, within a limit for all of it. JSON has a limit for all of it alone."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.api.conftest import api_client
from tests.api.test_builds import link, request

from sandpit.api.app import create_app
from sandpit.api.http import connections
from sandpit.server.app import _asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandpit.control.app import ControlPlane


@pytest.fixture
async def port(control: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The API as it is served, with shorter times: 0.4 s for JSON; 0.3 s for each 100 bytes, and 2 s for all, of an upload."""
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(connections, "UPLOAD_WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(connections, "UPLOAD_WINDOW_BYTES", 100)
    monkeypatch.setattr(connections, "UPLOAD_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with _asgi(create_app(control), sock, http=connections.BoundedConnection):
            yield sock.getsockname()[1]


@pytest.fixture
async def path(control: ControlPlane) -> str:
    async with api_client(control, control.first_key) as client:
        made = await request(client)
        url: str = (await link(client, made["templateID"]))["url"]
        return urlsplit(url).path


async def send(port: int, head: str, piece: bytes, pause: float, number: int) -> tuple[int, dict[str, object] | None]:
    """The status of the answer to a body that comes in pieces, and its error; 0 for a connection that just ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(reader.read(65536))
    writer.write(f"{head}\r\nHost: x\r\nContent-Length: {len(piece) * number}\r\n\r\n".encode())
    for _ in range(number):
        if reading.done():
            break
        writer.write(piece)
        await asyncio.sleep(pause)
    try:
        answer = await reading
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    if not answer:
        return 0, None
    body = answer.partition(b"\r\n\r\n")[2]
    return int(answer.split()[1]), json.loads(body) if body else None


def archives(control: ControlPlane) -> list[str]:
    return [path.name for path in control.settings.data_dir.glob("uploads/*/*")]


async def test_one_that_comes_on_is_not_cut(control: ControlPlane, port: int, path: str) -> None:
    """It takes three times as long as JSON may."""
    assert await send(port, f"PUT {path} HTTP/1.1", bytes(100), 0.1, 12) == (200, None)
    assert len(archives(control)) == 1


async def test_one_that_stops_or_drips_is_refused(control: ControlPlane, port: int, path: str) -> None:
    for piece, pause in ((bytes(1000), 1.0), (b"x", 0.05)):
        status, error = await send(port, f"PUT {path} HTTP/1.1", piece, pause, 40)
        assert (status, (error or {}).get("code")) == (408, 408)
        while archives(control):
            await asyncio.sleep(0.01)


async def test_the_whole_has_a_limit(control: ControlPlane, port: int, path: str) -> None:
    status, error = await send(port, f"PUT {path} HTTP/1.1", bytes(1000), 0.05, 200)
    assert (status, "did not end within 2 s" in str((error or {}).get("message"))) == (408, True)
    while archives(control):
        await asyncio.sleep(0.01)


async def test_size_is_refused_before_it_comes(control: ControlPlane, port: int, path: str) -> None:
    control.services.builds.uploads._archive_bytes = 1000
    assert (await send(port, f"PUT {path} HTTP/1.1", bytes(1001), 0.0, 1))[0] == 413
    assert archives(control) == []


async def test_nothing_else_has_that_time(port: int, path: str) -> None:
    """JSON, and what is sent to no valid link, which is answered at once and then cut."""
    for head in ("POST /v2/sandboxes HTTP/1.1", f"POST {path} HTTP/1.1", "PUT /template-files/x HTTP/1.1"):
        began = asyncio.get_running_loop().time()
        await send(port, head, bytes(100), 0.05, 100)
        assert asyncio.get_running_loop().time() - began < 30
