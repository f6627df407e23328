"""Files by both sets of rules (the 2024 documentation, "Filesystem", "Upload", "Download")."""

from __future__ import annotations

import io
import itertools
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.clients.flavours import each, got, until

from sandpit import CommandExitException, FileNotFoundException, FilesystemException, FilesystemOperation

if TYPE_CHECKING:
    from pathlib import Path

Sandbox = Any
_numbers = itertools.count()


async def owner(sandbox: Sandbox, path: str) -> str:
    return str((await got(sandbox.files.get_info(path))).owner)


async def test_write_and_read(sandbox: Sandbox) -> None:
    await got(sandbox.filesystem.write("text.txt", "Zażółć\n"))
    assert await got(sandbox.filesystem.read("text.txt")) == "Zażółć\n"
    assert await got(sandbox.filesystem.read("~/text.txt")) == "Zażółć\n"
    await got(sandbox.filesystem.write("/home/user/text.txt", "b"))
    assert await got(sandbox.filesystem.read("../user/./text.txt")) == "b"
    content = bytes(range(256)) * 4000
    await got(sandbox.filesystem.write_bytes("bytes", bytearray(content)))
    assert await got(sandbox.filesystem.read_bytes("bytes")) == content
    assert await got(sandbox.download_file("/home/user/bytes")) == content


async def test_every_path_is_open_to_the_rules_of_2024(sandbox: Sandbox) -> None:
    top = f"/top-{next(_numbers)}"
    await got(sandbox.filesystem.make_dir(f"{top}/new"))
    await got(sandbox.filesystem.make_dir(f"{top}/new"))
    await got(sandbox.filesystem.write(f"{top}/new/file", "x"))
    entries = await got(sandbox.filesystem.list(top))
    assert [(entry.name, entry.is_dir) for entry in entries] == [("new", True)]
    assert await owner(sandbox, f"{top}/new/file") == "root"
    with pytest.raises(CommandExitException, match="Permission denied"):
        await got(sandbox.commands.run(f"echo > {top}/new/file"))
    await got(sandbox.filesystem.remove(top))
    assert top[1:] not in {entry.name for entry in await got(sandbox.filesystem.list("/"))}
    await got(sandbox.filesystem.write("/root/secret", "s"))
    assert await got(sandbox.filesystem.read("/root/secret")) == "s"
    await got(sandbox.filesystem.make_dir("own/deeper"))
    await got(sandbox.filesystem.write("own/deeper/file", "x"))
    assert {await owner(sandbox, path) for path in ("own", "own/deeper", "own/deeper/file")} == {"user"}


async def test_directories_are_not_made_on_the_way(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundException, match="/home/user/none does not exist\n hint: make it"):
        await got(sandbox.filesystem.write("none/file", "x"))
    for call in (sandbox.filesystem.read, sandbox.filesystem.list):
        with pytest.raises(FileNotFoundException):
            await got(call("none"))
    with pytest.raises(FilesystemException):
        await got(sandbox.filesystem.list("/etc/hosts"))


async def test_relative_to_the_working_directory(sandbox: Sandbox) -> None:
    sandbox.cwd = "/home/user/code"
    await got(sandbox.filesystem.make_dir("."))
    await got(sandbox.filesystem.write("hello.txt", "Welcome"))
    await got(sandbox.filesystem.write("../hello.txt", "outside"))
    shown = await got(sandbox.process.start_and_wait("cat /home/user/code/hello.txt ~/hello.txt"))
    assert shown.stdout == "Welcomeoutside"


async def test_upload(sandbox: Sandbox, tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    (tmp_path / "data.csv").write_bytes(content)
    with (tmp_path / "data.csv").open("rb") as file:
        assert await got(sandbox.upload_file(file)) == "/home/user/data.csv"
    assert await got(sandbox.download_file("data.csv")) == content
    assert await owner(sandbox, "data.csv") == "user"


async def test_current_rules(sandbox: Sandbox) -> None:
    files = sandbox.files
    folder = f"folder-{next(_numbers)}"
    assert await got(files.write(f"{folder}/a/file", "text")) == f"/home/user/{folder}/a/file"
    await got(files.write(f"{folder}/pieces", iter([b"one", b"two"])))
    await got(files.write(f"{folder}/stream", io.BytesIO(b"three")))
    assert await got(files.read(f"{folder}/pieces")) == "onetwo"
    pieces = [piece async for piece in each(await got(files.read_stream(f"{folder}/stream")))]
    assert b"".join(pieces) == b"three"
    listed = {entry.path: entry for entry in await got(files.list(folder, depth=2))}
    assert set(listed) == {f"/home/user/{folder}/{name}" for name in ("a", "a/file", "pieces", "stream")}
    file = listed[f"/home/user/{folder}/a/file"]
    assert (file.type, file.size, file.mode, file.owner) == ("file", 4, 0o644, "user")
    assert listed[f"/home/user/{folder}/a"].type == "dir"
    assert not await got(files.make_dir(f"{folder}/a"))
    assert (await got(files.rename(f"{folder}/a/file", f"{folder}/moved"))).path == f"/home/user/{folder}/moved"
    assert await got(files.exists(f"{folder}/moved"))
    assert not await got(files.exists(f"{folder}/a/file"))
    await got(files.remove(folder))
    assert not await got(files.exists(folder))


async def test_watch(sandbox: Sandbox) -> None:
    folder = f"/home/user/watched-{next(_numbers)}"
    await got(sandbox.filesystem.make_dir(folder))
    seen: list[Any] = []
    watcher = sandbox.filesystem.watch_dir(folder)
    watcher.add_event_listener(seen.append)
    forgotten: list[Any] = []
    watcher.add_event_listener(forgotten.append)()
    await got(watcher.start())
    await got(sandbox.filesystem.write(f"{folder}/file", "x"))
    await got(sandbox.filesystem.make_dir(f"{folder}/dir"))
    await until(lambda: any(event.name == "dir" for event in seen))
    operations = [event.operation for event in seen if event.path == f"{folder}/file"]
    assert operations[0] is FilesystemOperation.Create
    assert FilesystemOperation.Write in operations
    assert next(event for event in seen if event.name == "dir").is_dir
    await got(watcher.stop())
    count = len(seen)
    await got(sandbox.filesystem.remove(folder))
    assert (len(seen), forgotten) == (count, [])
    with pytest.raises(FileNotFoundException):
        await got(sandbox.filesystem.watch_dir("/none").start())


async def test_watch_by_the_current_name(sandbox: Sandbox) -> None:
    folder = f"deep-{next(_numbers)}"
    await got(sandbox.files.write(f"{folder}/a/b", "x"))
    seen: list[Any] = []
    watcher = await got(sandbox.files.watch_dir(folder, seen.append, recursive=True))
    await got(sandbox.files.write(f"{folder}/a/b", "y"))
    await until(lambda: any(event.name == "a/b" and event.operation == "Write" for event in seen))
    await got(watcher.stop())


async def test_links_for_others(sandbox: Sandbox) -> None:
    with httpx.Client(trust_env=False) as others:
        put = others.post(sandbox.upload_url("from-outside"), files={"file": ("from-outside", b"hello")})
        assert put.status_code == 200, put.text
        assert others.get(sandbox.download_url("from-outside", expires_in=60)).text == "hello"
        assert others.get(sandbox.download_url("from-outside", expires_in=-60)).status_code == 401
