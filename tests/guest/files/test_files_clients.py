"""The official Python client, unmodified, blocking and async (C88-C110 of the conformance list)."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import e2b
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.official_client


@pytest.fixture
def sandbox(agent: Any) -> Any:
    return e2b.Sandbox.create(debug=True, sandbox_url=agent.url)


@pytest.fixture
async def async_sandbox(agent: Any) -> Any:
    return await e2b.AsyncSandbox.create(debug=True, sandbox_url=agent.url)


def test_write_and_read(sandbox: Any, folder: Path) -> None:
    files = sandbox.files
    for data in ("text ü", b"text \xc3\xbc", io.BytesIO(b"text \xc3\xbc"), iter([b"text ", b"\xc3\xbc"])):
        path = str(folder / "new" / "f.txt")
        info = files.write(path, data)
        assert (info.name, info.type, info.path, info.metadata) == ("f.txt", e2b.FileType.FILE, path, None)
        assert files.read(path) == "text ü"
        assert files.read(path, format="bytes") == b"text \xc3\xbc"
        assert b"".join(files.read(path, format="stream")) == b"text \xc3\xbc"
    large = "x" * 3_000_000
    files.write(path, large, gzip=True)
    assert files.read(path) == files.read(path, gzip=True) == large
    files.write(path, "")
    assert files.read(path) == ""
    with pytest.raises(e2b.FileNotFoundException, match=f"path '{folder}/no' does not exist"):
        files.read(str(folder / "no"))


def test_write_files(sandbox: Any, folder: Path) -> None:
    files = sandbox.files
    assert files.write_files([]) == []
    names = [str(folder / name) for name in ("z", "a", "d/e/f")]
    infos = files.write_files([{"path": name, "data": name} for name in names])
    assert [info.path for info in infos] == names
    mixed = [{"path": names[0], "data": io.BytesIO(b"1")}, {"path": names[1], "data": "2"}]
    infos = files.write_files(mixed, metadata={"Key": "v"})
    assert [info.metadata for info in infos] == [{"key": "v"}] * 2
    assert [files.read(name) for name in names] == ["1", "2", names[2]]


def test_directories(sandbox: Any, folder: Path) -> None:
    files = sandbox.files
    path = str(folder / "d")
    assert [files.make_dir(path), files.make_dir(path), files.make_dir(path + "/n/m")] == [True, False, True]
    assert (files.exists(path), files.exists(path + "/no")) == (True, False)
    files.write(path + "/f", "1", metadata={"author": "me"})
    entry = files.rename(path + "/f", path + "/n/g")
    assert (entry.path, entry.metadata) == (path + "/n/g", {"author": "me"})
    with pytest.raises(e2b.FileNotFoundException):
        files.rename(path + "/f", path + "/x")
    assert [entry.path for entry in files.list(path, depth=2)] == [f"{path}/n", f"{path}/n/g", f"{path}/n/m"]
    info = files.get_info(path + "/n/g")
    assert (info.size, info.mode, info.permissions, info.owner, info.group) == (1, 0o644, "-rw-r--r--", "root", "root")
    files.remove(path)
    files.remove(path)
    assert not files.exists(path)


def test_links(sandbox: Any, folder: Path) -> None:
    (folder / "f").touch()
    (folder / "link").symlink_to("f")
    info = sandbox.files.get_info(str(folder / "link"))
    assert (info.type, info.symlink_target) == (e2b.FileType.FILE, str(folder / "f"))


def test_polled_watch(sandbox: Any, folder: Path) -> None:
    handle = sandbox.files.watch_dir(str(folder), recursive=True, include_entry=True, allow_network_mounts=True)
    sandbox.files.make_dir(str(folder / "d"))
    handle.get_new_events()
    sandbox.files.write(str(folder / "d" / "f"), "12345")
    events = handle.get_new_events()
    assert [(event.name, event.type.name) for event in events] == [
        ("d/f", "CREATE"),
        ("d/f", "CHMOD"),
        ("d/f", "WRITE"),
    ]
    assert (events[-1].entry.path, events[-1].entry.size) == (str(folder / "d" / "f"), 5)
    handle.stop()
    with pytest.raises(e2b.FileNotFoundException):
        sandbox.files.watch_dir(str(folder / "no"))
    with pytest.raises(e2b.InvalidArgumentException):
        sandbox.files.watch_dir(str(folder / "d" / "f"))


async def test_async_client(async_sandbox: Any, folder: Path) -> None:
    files = async_sandbox.files
    path = str(folder / "f")
    names = [str(folder / f"c{number}") for number in range(10)]
    await asyncio.gather(*(files.write(name, name) for name in names))
    assert [entry.path for entry in await files.list(str(folder))] == names
    assert [await files.read(name) for name in names] == names

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    await files.write(path, pieces(), user="nobody")
    assert (await files.get_info(path)).owner == "nobody"
    assert sum([len(piece) async for piece in await files.read(path, format="stream")]) == 1 << 22


async def test_streamed_watch(async_sandbox: Any, folder: Path) -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()
    handle = await async_sandbox.files.watch_dir(str(folder), on_event=events.put, include_entry=True)
    await async_sandbox.files.write(str(folder / "f"), "1")
    found = [await events.get() for _ in range(3)]
    assert [(event.name, event.type.name) for event in found] == [("f", "CREATE"), ("f", "CHMOD"), ("f", "WRITE")]
    await handle.stop()
