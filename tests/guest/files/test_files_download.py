"""GET /files (current-protocol 7.1)."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path
from typing import Any

import pytest

CONTENT = bytes(range(256)) * 8192  # 2 MiB: several chunks


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "data.txt"
    path.write_bytes(CONTENT)
    return path


def test_whole_file(agent: Any, file: Path) -> None:
    answer = agent.read(str(file))
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["content-disposition"] == "inline; filename=data.txt"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("size", [0, 1, (512 << 10) - 1, 512 << 10, (512 << 10) + 1])
def test_sizes_around_a_chunk(agent: Any, folder: Path, size: int) -> None:
    path = folder / "f"
    path.write_bytes(CONTENT[:size])
    answer = agent.read(str(path))
    assert answer.content == CONTENT[:size]
    assert answer.headers["content-length"] == str(size)


@pytest.mark.parametrize("name", ["ü \"';\r\n.bin", "a b", b"\xff".decode("utf-8", "surrogateescape")])
def test_odd_names(agent: Any, folder: Path, name: str) -> None:
    path = os.fsencode(folder) + b"/" + os.fsencode(name)
    Path(os.fsdecode(path)).write_bytes(b"x")
    if name.isprintable():
        assert agent.read(os.fsdecode(path)).headers["content-disposition"].startswith("inline; filename*=utf-8''")
    else:
        assert agent.call("ListDir", {"path": str(folder)})["entries"][0]["size"] == "1"


@pytest.mark.parametrize(
    ("header", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100-199", 206, 100, 200),
        ("bytes=600000-1300000", 206, 600000, 1300001),
        ("bytes=2097000-", 206, 2097000, 2097152),
        ("bytes=-5", 206, 2097147, 2097152),
        ("bytes=-99999999", 206, 0, 2097152),
        ("bytes=2097151-99999999", 206, 2097151, 2097152),
        ("bytes=5-2", 200, 0, 2097152),
        ("bytes=-", 200, 0, 2097152),
        ("lines=1-2", 200, 0, 2097152),
        ("bytes=0-1,5-6", 200, 0, 2097152),
    ],
)
def test_ranges(agent: Any, file: Path, header: str, status: int, start: int, stop: int) -> None:
    answer = agent.read(str(file), range=header)
    assert (answer.status_code, answer.content) == (status, CONTENT[start:stop])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("header", ["bytes=2097152-", "bytes=-0"])
def test_unsatisfiable_range(agent: Any, file: Path, header: str) -> None:
    answer = agent.read(str(file), range=header)
    assert (answer.status_code, answer.json()["code"]) == (416, 416)
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


def test_conditions(agent: Any, file: Path) -> None:
    first = agent.read(str(file))
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for headers in ({"if-none-match": etag}, {"if-none-match": "*"}, {"if-modified-since": modified}):
        answer = agent.read(str(file), **headers)
        assert (answer.status_code, answer.content) == (304, b""), headers
    assert agent.read(str(file), **{"if-match": '"other"'}).status_code == 412
    early = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert agent.read(str(file), **{"if-unmodified-since": early}).status_code == 412
    assert agent.read(str(file), **{"if-modified-since": early}).status_code == 200
    assert agent.read(str(file), **{"if-modified-since": "nonsense"}).status_code == 200
    assert agent.read(str(file), **{"range": "bytes=0-0", "if-range": etag}).status_code == 206
    assert agent.read(str(file), **{"range": "bytes=0-0", "if-range": '"old"'}).status_code == 200
    file.write_bytes(b"new")
    assert agent.read(str(file), **{"if-none-match": etag}).status_code == 200


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip", "gzip"),
        ("gzip;q=1.0", "gzip"),
        ("gzip, identity;q=0", "gzip"),
        ("gzip, deflate, br", None),
        ("identity", None),
        ("*", None),
        ("gzip;q=0, *", None),
    ],
)
def test_gzip_only_when_asked(agent: Any, file: Path, accept: str, encoding: str | None) -> None:
    with agent.http.stream("GET", "/files", params={"path": str(file)}, headers={"accept-encoding": accept}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == encoding
    assert (gzip.decompress(raw) if encoding else raw) == CONTENT


def test_unacceptable_encodings(agent: Any, file: Path) -> None:
    assert agent.read(str(file), **{"accept-encoding": "br, identity;q=0"}).status_code == 406
    assert agent.read(str(file), **{"accept-encoding": "gzip, *;q=0", "range": "bytes=0-0"}).status_code == 406


def test_pseudo_file_has_no_length(agent: Any) -> None:
    answer = agent.read("/proc/sys/kernel/random/boot_id")
    assert answer.text == Path("/proc/sys/kernel/random/boot_id").read_text()
    assert "content-length" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"


def test_sys_file_is_as_long_as_its_content(agent: Any) -> None:
    path = Path("/sys/devices/system/cpu/online")
    answer = agent.read(str(path))
    assert answer.text == path.read_text()
    assert answer.headers["content-length"] == str(len(answer.content))


def test_what_is_no_file(agent: Any, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        (folder / "link").symlink_to("/dev/zero")
        for name in ("fifo", "socket", "link"):
            answer = agent.read(str(folder / name))
            assert answer.status_code == 400
            assert answer.json() == {"code": 400, "message": f"path '{folder / name}' is not a regular file"}
    answer = agent.read(str(folder))
    assert (answer.status_code, answer.json()["message"]) == (400, f"path '{folder}' is a directory")
    assert agent.read("/proc/self/mem").status_code == 400
    (folder / "loop").symlink_to("loop")
    assert agent.read(str(folder / "loop")).status_code == 400
    assert agent.read(str(folder / "fifo" / "x")).status_code == 404
    assert agent.read("/" + "x" * 300).status_code == 400
    assert agent.http.get("/files?path=%00").status_code == 400
    assert agent.http.get("/health").status_code == 204


def test_head(agent: Any, file: Path) -> None:
    answer = agent.http.head("/files", params={"path": str(file)})
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(len(CONTENT)), b"")


def test_memory_stays_flat(agent: Any, folder: Path) -> None:
    path = folder / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    agent.read("/etc/passwd")
    before = agent.memory()
    received = 0
    with agent.http.stream("GET", "/files", params={"path": str(path)}) as answer:
        for piece in answer.iter_raw():
            received += len(piece)
    assert received == 64 << 20
    assert agent.memory() - before < 16 << 20


def test_a_client_that_leaves_is_noticed(agent: Any, folder: Path) -> None:
    """The agent must not go on reading a huge file that nobody takes."""
    path = folder / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for _ in range(5):
        with agent.http.stream("GET", "/files", params={"path": str(path)}) as answer:
            next(answer.iter_raw())
    for _ in range(500):
        if not [link for link in Path(f"/proc/{agent.pid}/fd").iterdir() if _target(link) == str(path)]:
            return
        agent.http.get("/health")
    pytest.fail("the file is still open")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""
