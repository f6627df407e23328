"""Files (current-protocol 11.7)."""

from __future__ import annotations

import io
import os
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import e2b
import httpx
import pytest
from e2b.sandbox.filesystem.filesystem import WriteEntry
from e2b.sandbox.signature import get_signature
from tests.clients.flavours import each, got

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.clients.flavours import Create, Flavour

    Sandbox = Any

LARGE = os.urandom(1 << 20) * 12
"""More than any buffer on the way."""


def chunks_of(flavour: Flavour, data: bytes, size: int = 100_000) -> Any:
    """An iterable upload of the flavour's kind."""

    def blocking() -> Iterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    async def later() -> AsyncIterator[bytes]:
        for chunk in blocking():
            yield chunk

    return blocking() if flavour.blocking else later()


async def streamed(sandbox: Sandbox, path: str, **options: Any) -> bytes:
    stream = await got(sandbox.files.read(path, format="stream", **options))
    return b"".join([chunk async for chunk in each(stream)])


# Writing and reading


async def test_write_and_read(sandbox: Sandbox, home: str) -> None:
    files = sandbox.files
    written = await got(files.write(f"{home}/text", "zażółć 🎉\r\n"))
    assert (written.name, written.type, written.path) == ("text", e2b.FileType.FILE, f"{home}/text")
    assert written.metadata is None
    assert await got(files.read(f"{home}/text")) == "zażółć 🎉\r\n"
    assert await got(files.read(f"{home}/text", format="bytes")) == "zażółć 🎉\r\n".encode()
    assert await streamed(sandbox, f"{home}/text") == "zażółć 🎉\r\n".encode()
    await got(files.write(f"{home}/text", b"\x00\xff shorter"))
    assert await got(files.read(f"{home}/text", format="bytes")) == b"\x00\xff shorter"
    await got(files.write(f"{home}/text", ""))
    assert await got(files.read(f"{home}/text")) == ""
    assert await got(files.read(f"{home}/text", format="bytes")) == b""
    assert await streamed(sandbox, f"{home}/text") == b""


async def test_relative_paths_begin_at_the_users_home(sandbox: Sandbox, flavour: Flavour) -> None:
    name = f"relative-{flavour.name}.txt"
    written = await got(sandbox.files.write(name, "x"))
    assert written.path == f"/home/user/{name}"
    as_root = await got(sandbox.files.write(name, "of root", user="root"))
    assert as_root.path == f"/root/{name}"
    assert await got(sandbox.files.read(f"~/{name}", user="root")) == "of root"
    assert (await got(sandbox.files.get_info(name, user="root"))).owner == "root"
    assert (await got(sandbox.files.get_info(name))).owner == "user"
    with pytest.raises(e2b.AuthenticationException):
        await got(sandbox.files.write(name, "x", user="nobody-here"))
    with pytest.raises(e2b.AuthenticationException):
        await got(sandbox.files.read(name, user="nobody-here"))


async def test_names_of_all_kinds(sandbox: Sandbox, home: str) -> None:
    for name in ("with space", "ключ☃", "a%20b&c=d+e?f#g", 'quo"te', "semi;colon", "..dots", "-dash"):
        path = f"{home}/{name}"
        assert (await got(sandbox.files.write(path, name))).path == path
        assert (await got(sandbox.files.write(path, io.BytesIO(name.encode())))).path == path
        assert await got(sandbox.files.read(path)) == name
        assert (await got(sandbox.files.get_info(path))).name == name


async def test_new_directories_are_made(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.files.write(f"{home}/a/b/c/file", "deep"))
    assert await got(sandbox.files.read(f"{home}/a/b/c/file")) == "deep"
    info = await got(sandbox.files.get_info(f"{home}/a/b"))
    assert (info.type, info.owner, info.group, info.mode) == (e2b.FileType.DIR, "user", "user", 0o755)


async def test_files_and_iterables(sandbox: Sandbox, flavour: Flavour, home: str) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(LARGE)
        file.seek(0)
        await got(sandbox.files.write(f"{home}/file", file))
    await got(sandbox.files.write(f"{home}/chunks", chunks_of(flavour, LARGE)))
    await got(sandbox.files.write(f"{home}/text", io.StringIO("текст")))
    await got(sandbox.files.write(f"{home}/bytes", LARGE))
    for name in ("file", "chunks", "bytes"):
        assert await got(sandbox.files.read(f"{home}/{name}", format="bytes")) == LARGE, name
    assert await streamed(sandbox, f"{home}/bytes") == LARGE
    assert await got(sandbox.files.read(f"{home}/text")) == "текст"


@pytest.mark.parametrize("octets", [True, False], ids=["octet-stream", "multipart"])
async def test_gzip(sandbox: Sandbox, home: str, octets: bool) -> None:
    data = b"again and again " * 100_000
    for compressed in (True, False):
        path = f"{home}/{compressed}"
        await got(sandbox.files.write(path, data, gzip=compressed, use_octet_stream=octets or compressed))
        for accepted in (True, False):
            assert await got(sandbox.files.read(path, format="bytes", gzip=accepted)) == data
        assert await streamed(sandbox, path, gzip=True) == data
    sizes = await got(sandbox.commands.run(f"stat -c %s {home}/*"))
    assert sizes.stdout.split() == 2 * [str(len(data))]


@pytest.mark.parametrize("octets", [True, False], ids=["octet-stream", "multipart"])
async def test_many_files(sandbox: Sandbox, home: str, octets: bool) -> None:
    entries: list[WriteEntry] = [
        {"path": f"{home}/one", "data": "text"},
        {"path": f"{home}/sub/two", "data": b"\x00bytes"},
        {"path": f"{home}/sub/deep/three", "data": io.BytesIO(b"file")},
        {"path": f"{home}/aaa", "data": ""},
    ]
    written = await got(sandbox.files.write_files(entries, use_octet_stream=octets))
    assert [info.path for info in written] == [entry["path"] for entry in entries]
    assert [info.name for info in written] == ["one", "two", "three", "aaa"]
    contents = [await got(sandbox.files.read(info.path, format="bytes")) for info in written]
    assert contents == [b"text", b"\x00bytes", b"file", b""]
    assert await got(sandbox.files.write_files([])) == []


async def test_reading_what_is_no_file(sandbox: Sandbox, home: str) -> None:
    with pytest.raises(e2b.FileNotFoundException, match=f"path '{home}/absent' does not exist"):
        await got(sandbox.files.read(f"{home}/absent"))
    with pytest.raises(e2b.FileNotFoundException):
        await got(sandbox.files.read(f"{home}/absent", format="stream"))
    with pytest.raises(e2b.InvalidArgumentException):
        await got(sandbox.files.read(home))
    with pytest.raises(e2b.SandboxException):
        await got(sandbox.files.write(home, "onto a directory"))
    with pytest.raises(e2b.SandboxException):
        await got(sandbox.files.write("/etc/hostname/below-a-file", "x", user="root"))
    # Pseudo files tell no size.
    assert "MemTotal" in await got(sandbox.files.read("/proc/meminfo"))
    assert "processor" in (await streamed(sandbox, "/proc/cpuinfo")).decode()


async def test_the_disks_end(create: Create) -> None:
    """A write that does not fit says so, and the sandbox goes on."""
    sandbox = await create()
    free = int((await got(sandbox.commands.run("df --output=avail -B1M / | tail -1"))).stdout)
    await got(
        sandbox.commands.run(f"fallocate -l {free - 5}M /home/user/filler || head -c {free - 5}M /dev/zero > filler")
    )
    with pytest.raises(e2b.NotEnoughSpaceException):
        await got(sandbox.files.write("too-large", LARGE))
    await got(sandbox.files.remove("filler"))
    await got(sandbox.files.write("too-large", LARGE))
    assert (await got(sandbox.files.get_info("too-large"))).size == len(LARGE)


# Directories and entries


async def test_make_and_remove(sandbox: Sandbox, home: str) -> None:
    files = sandbox.files
    assert await got(files.make_dir(f"{home}/new")) is True
    assert await got(files.make_dir(f"{home}/new")) is False
    assert await got(files.make_dir(f"{home}/x/y/z")) is True
    assert await got(files.exists(f"{home}/x/y/z")) is True
    assert await got(files.exists(f"{home}/absent")) is False
    await got(files.write(f"{home}/x/y/file", "x"))
    with pytest.raises(e2b.InvalidArgumentException):
        await got(files.make_dir(f"{home}/x/y/file"))
    await got(files.remove(f"{home}/x"))
    assert await got(files.exists(f"{home}/x")) is False
    await got(files.write(f"{home}/file", "x"))
    await got(files.remove(f"{home}/file"))
    assert await got(files.exists(f"{home}/file")) is False
    await got(files.remove(f"{home}/file"))
    assert [entry.name for entry in await got(files.list(home))] == ["new"]


async def test_rename(sandbox: Sandbox, home: str) -> None:
    files = sandbox.files
    await got(files.write(f"{home}/old", "kept"))
    moved = await got(files.rename(f"{home}/old", f"{home}/new/place"))
    assert (moved.name, moved.path, moved.type, moved.size) == ("place", f"{home}/new/place", e2b.FileType.FILE, 4)
    assert await got(files.exists(f"{home}/old")) is False
    assert await got(files.read(f"{home}/new/place")) == "kept"
    await got(files.rename(f"{home}/new", f"{home}/newer"))
    assert await got(files.read(f"{home}/newer/place")) == "kept"
    with pytest.raises(e2b.FileNotFoundException):
        await got(files.rename(f"{home}/absent", f"{home}/whatever"))


async def test_list(sandbox: Sandbox, home: str) -> None:
    for path in ("b/inner/leaf", "b/x", "a", "c/y"):
        await got(sandbox.files.write(f"{home}/{path}", path))
    expected = {
        1: ["a", "b", "c"],
        2: ["a", "b", "b/inner", "b/x", "c", "c/y"],
        3: ["a", "b", "b/inner", "b/inner/leaf", "b/x", "c", "c/y"],
        9: ["a", "b", "b/inner", "b/inner/leaf", "b/x", "c", "c/y"],
    }
    for depth, paths in expected.items():
        entries = await got(sandbox.files.list(home, depth=depth))
        assert [entry.path for entry in entries] == [f"{home}/{path}" for path in paths]
    leaf = entries[3]
    assert (leaf.name, leaf.type, leaf.size) == ("leaf", e2b.FileType.FILE, len("b/inner/leaf"))
    assert (leaf.mode, leaf.permissions, leaf.owner, leaf.group) == (0o644, "-rw-r--r--", "user", "user")
    assert abs(leaf.modified_time - datetime.now(UTC)) < timedelta(minutes=5)
    assert (entries[1].type, entries[1].mode, entries[1].permissions) == (e2b.FileType.DIR, 0o755, "drwxr-xr-x")
    with pytest.raises(e2b.InvalidArgumentException):
        await got(sandbox.files.list(home, depth=0))
    with pytest.raises(e2b.FileNotFoundException):
        await got(sandbox.files.list(f"{home}/absent"))
    with pytest.raises(e2b.InvalidArgumentException, match="not a directory"):
        await got(sandbox.files.list(f"{home}/a"))


async def test_links(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.files.write(f"{home}/real/file", "x"))
    await got(sandbox.commands.run("ln -s real/file link; ln -s real dir; ln -s nowhere broken", cwd=home))
    link = await got(sandbox.files.get_info(f"{home}/link"))
    # As all generations of clients understand it: of the target's type, with a target.
    assert (link.type, link.symlink_target, link.path) == (e2b.FileType.FILE, f"{home}/real/file", f"{home}/link")
    assert (link.mode, link.permissions) == (0o644, "Lrwxrwxrwx")
    directory = await got(sandbox.files.get_info(f"{home}/dir"))
    assert (directory.type, directory.symlink_target) == (e2b.FileType.DIR, f"{home}/real")
    through = await got(sandbox.files.list(f"{home}/dir"))
    assert [entry.path for entry in through] == [f"{home}/dir/file"]
    names = [entry.name for entry in await got(sandbox.files.list(home, depth=5))]
    assert names == ["broken", "dir", "link", "real", "file"]
    assert await got(sandbox.files.read(f"{home}/link")) == "x"
    assert await got(sandbox.files.exists(f"{home}/broken")) is True
    await got(sandbox.files.write(f"{home}/link", "through the link"))
    assert await got(sandbox.files.read(f"{home}/real/file")) == "through the link"
    await got(sandbox.files.remove(f"{home}/dir"))
    assert await got(sandbox.files.exists(f"{home}/real/file")) is True


async def test_info(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.commands.run("echo -n 12345 > script; chmod 4751 script; mkfifo pipe", cwd=home))
    info = await got(sandbox.files.get_info(f"{home}/script"))
    assert (info.name, info.path, info.type) == ("script", f"{home}/script", e2b.FileType.FILE)
    assert (info.size, info.owner, info.group) == (5, "user", "user")
    assert info.mode & 0o777 == 0o751
    assert info.permissions.endswith("x")
    assert info.symlink_target is None
    directory = await got(sandbox.files.get_info(home))
    assert (directory.type, directory.mode, directory.permissions) == (e2b.FileType.DIR, 0o755, "drwxr-xr-x")
    with pytest.raises(e2b.FileNotFoundException):
        await got(sandbox.files.get_info(f"{home}/absent"))


# Metadata


@pytest.mark.parametrize("octets", [True, False], ids=["octet-stream", "multipart"])
async def test_metadata(sandbox: Sandbox, home: str, octets: bool) -> None:
    files, path = sandbox.files, f"{home}/file"
    metadata = {"author": "me, myself & I", "x-count": "3"}
    written = await got(files.write(path, "x", metadata=metadata, use_octet_stream=octets))
    assert written.metadata == metadata
    assert (await got(files.get_info(path))).metadata == metadata
    assert [entry.metadata for entry in await got(files.list(home))] == [metadata]
    assert (await got(files.rename(path, f"{path}2"))).metadata == metadata
    await got(files.write(f"{path}2", "again", metadata={"Other": "y"}, use_octet_stream=octets))
    assert (await got(files.get_info(f"{path}2"))).metadata == {"other": "y"}
    assert (await got(files.write(f"{path}2", "again", use_octet_stream=octets))).metadata is None
    assert (await got(files.get_info(f"{path}2"))).metadata is None

    entries = [{"path": f"{home}/{name}", "data": name} for name in ("p", "q")]
    many = await got(files.write_files(entries, metadata={"k": "v"}, use_octet_stream=octets))
    assert [info.metadata for info in many] == 2 * [{"k": "v"}]
    with pytest.raises(e2b.InvalidArgumentException):
        await got(files.write(path, "x", metadata={"bad key": "x"}))
    with pytest.raises(e2b.InvalidArgumentException):
        await got(files.write(path, "x", metadata={"key": "bad\nvalue"}))
    with pytest.raises(e2b.SandboxException):
        await got(files.write(path, "x", metadata={"too-long": "x" * 5000}))


async def test_metadata_are_extended_attributes(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.files.write(f"{home}/file", "x", metadata={"a": "b"}))
    program = "import os; os.setxattr('file', 'user.e2b.author', b'inside'); print(os.getxattr('file', 'user.e2b.a'))"
    done = await got(sandbox.commands.run(f'python3 -c "{program}"', cwd=home))
    assert done.stdout == "b'b'\n"
    assert (await got(sandbox.files.get_info(f"{home}/file"))).metadata == {"a": "b", "author": "inside"}


# Signed links: plain HTTP, no headers


async def test_links_for_everybody(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.files.write(f"{home}/file", "for everybody"))
    answer = httpx.get(sandbox.download_url(f"{home}/file"), trust_env=False)
    assert (answer.status_code, answer.text) == (200, "for everybody")
    assert answer.headers["content-disposition"].startswith("inline")
    part = httpx.get(sandbox.download_url(f"{home}/file"), headers={"Range": "bytes=4-7"}, trust_env=False)
    assert (part.status_code, part.text) == (206, "ever")

    for url in (
        sandbox.upload_url(f"{home}/up"),
        sandbox.upload_url(f"{home}/up", use_signature_expiration=60),
        sandbox.upload_url(f"{home}/up", user="user"),
    ):
        sent = httpx.post(url, files={"file": ("ignored", b"uploaded")}, trust_env=False)
        assert (sent.status_code, sent.json()) == (200, [{"name": "up", "type": "file", "path": f"{home}/up"}])
    assert await got(sandbox.files.read(f"{home}/up")) == "uploaded"

    url = sandbox.upload_url("of-root", user="root", use_signature_expiration=60)
    sent = httpx.post(url, files={"file": ("ignored", b"of root")}, trust_env=False)
    assert sent.json() == [{"name": "of-root", "type": "file", "path": "/root/of-root"}]
    url = sandbox.download_url("of-root", user="root", use_signature_expiration=60)
    assert httpx.get(url, trust_env=False).text == "of root"


async def test_links_end(sandbox: Sandbox, home: str) -> None:
    await got(sandbox.files.write(f"{home}/file", "x"))
    expired = {"code": 401, "message": "signature is already expired"}
    answer = httpx.get(sandbox.download_url(f"{home}/file", use_signature_expiration=-10), trust_env=False)
    assert (answer.status_code, answer.json()) == (401, expired)
    url = sandbox.upload_url(f"{home}/file", use_signature_expiration=-10)
    answer = httpx.post(url, files={"file": ("file", b"y")}, trust_env=False)
    assert (answer.status_code, answer.json()) == (401, expired)
    assert await got(sandbox.files.read(f"{home}/file")) == "x"


async def test_links_cannot_be_changed(sandbox: Sandbox, home: str) -> None:
    """A link that matches no sandbox finds none; with the sandbox named, the agent says what is wrong."""
    await got(sandbox.files.write(f"{home}/file", "x"))
    parts = urlsplit(sandbox.download_url(f"{home}/file", use_signature_expiration=600))
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    named = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    base = f"{parts.scheme}://{parts.netloc}/files"

    def ask(method: str = "GET", headers: dict[str, str] | None = None, **changes: str | None) -> httpx.Response:
        changed = {name: value for name, value in {**query, **changes}.items() if value is not None}
        return httpx.request(method, base, params=changed, headers=headers, trust_env=False)

    assert ask().status_code == 200
    assert ask(headers=named).status_code == 200
    wrong = (
        {"path": "/etc/passwd"},
        {"username": "root"},
        {"signature_expiration": str(int(query["signature_expiration"]) + 1)},
        {"signature_expiration": None},
        {"signature": query["signature"][:-2] + "AA"},
    )
    for change in wrong:
        assert ask(**change).status_code >= 400, change
        refused = ask(headers=named, **change)
        assert (refused.status_code, refused.json()) == (401, {"code": 401, "message": "invalid signature"}), change
    refused = ask(headers=named, signature=None)
    assert refused.json() == {"code": 401, "message": "missing signature query parameter"}
    assert ask("POST").status_code >= 400  # signed for reading
    token = ask(headers={**named, "X-Access-Token": "wrong"})
    assert token.json() == {"code": 401, "message": "access token present in header but does not match"}


async def test_a_link_to_no_file(sandbox: Sandbox, home: str) -> None:
    answer = httpx.get(sandbox.download_url(f"{home}/absent"), trust_env=False)
    expected = {"code": 404, "message": f"path '{home}/absent' does not exist"}
    assert (answer.status_code, answer.json()) == (404, expected)


def test_the_signature() -> None:
    """The example in the protocol's description."""
    made = get_signature("hello.txt", "read", "user", "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0")
    assert made["signature"] == "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"
