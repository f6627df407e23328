"""POST /files (current-protocol 7.2)."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 64 << 20


def _form(agent: Any, files: list[tuple[str, bytes]], query: dict[str, str] | None = None, **headers: str) -> Any:
    parts = [("file", (name, content)) for name, content in files]
    return agent.http.post("/files", params=query or {}, files=parts, headers=headers)


def test_octet_stream(agent: Any, folder: Path) -> None:
    path = folder / "new" / "dir" / "ü.bin"
    answer = agent.upload(str(path), b"\0\xff" * 1000, authorization="Basic bm9ib2R5Og==")
    assert (answer.status_code, answer.json()) == (200, [{"name": "ü.bin", "path": str(path), "type": "file"}])
    assert path.read_bytes() == b"\0\xff" * 1000
    assert [(p.owner(), p.stat().st_mode & 0o7777) for p in (path, path.parent, path.parent.parent)] == [
        ("nobody", 0o644),
        ("nobody", 0o755),
        ("nobody", 0o755),
    ]


def test_form_with_query_path(agent: Any, folder: Path) -> None:
    path = str(folder / "a")
    answer = _form(agent, [("ignored/name", b"1")], {"path": path, "username": "nobody"})
    assert answer.json() == [{"name": "a", "path": path, "type": "file"}]
    assert (folder / "a").owner() == "nobody"


def test_form_with_file_names(agent: Any, folder: Path) -> None:
    names = [str(folder / name) for name in ("z", "d/e/f", "a b'ü", "empty")]
    contents = [b"1", os.urandom(700_000), b"\r\n--", b""]
    answer = _form(agent, list(zip(names, contents, strict=True)))
    assert [item["path"] for item in answer.json()] == names
    assert [Path(name).read_bytes() for name in names] == contents


def test_contents_that_look_like_boundaries(agent: Any, folder: Path) -> None:
    content = b"\r\n--bound\r\n--boun\r\n-\r\r\n--boundaryx\r\n" * 20_000
    body = (
        b'--boundary\r\nContent-Disposition: form-data; name="other"\r\n\r\nskipped\r\n'
        b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        + content.replace(b"--boundaryx", b"--bOundaryx")
        + b"\r\n--boundary--\r\n"
    )
    headers = {"content-type": "multipart/form-data; boundary=boundary"}
    answer = agent.http.post("/files", params={"path": str(folder / "f")}, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert (folder / "f").read_bytes() == content.replace(b"--boundaryx", b"--bOundaryx")


def test_relative_and_home_paths(secured: Any) -> None:
    token = {"x-access-token": "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"}
    name = f"sandpit-test-{time.time_ns()}"
    for given in (name, f"~/{name}"):
        query = {"path": given, "username": "root"}
        answer = secured.http.post("/files", params=query, files={"file": ("x", b"1")}, headers=token)
        try:
            assert answer.json()[0]["path"] == f"/root/{name}"
        finally:
            Path(f"/root/{name}").unlink()


def test_existing_file_keeps_its_place(agent: Any, folder: Path) -> None:
    path = folder / "f"
    path.write_bytes(b"long old content")
    path.chmod(0o755)
    (folder / "hard").hardlink_to(path)
    (folder / "link").symlink_to("f")
    inode = path.stat().st_ino
    assert agent.upload(str(folder / "link"), b"new").status_code == 200
    assert (path.read_bytes(), path.stat().st_ino, path.stat().st_mode & 0o777) == (b"new", inode, 0o755)
    assert (folder / "hard").read_bytes() == b"new"
    assert (folder / "link").is_symlink()


def test_link_to_nothing_is_written_through(agent: Any, folder: Path) -> None:
    (folder / "link").symlink_to("target")
    assert agent.upload(str(folder / "link"), b"x").status_code == 200
    assert (folder / "target").read_bytes() == b"x"


def test_file_of_another_user_in_a_sticky_directory(agent: Any, folder: Path) -> None:
    """The kernel refuses root O_CREAT there (fs.protected_regular)."""
    folder.chmod(0o1777)
    (folder / "f").write_bytes(b"1")
    os.chown(folder / "f", 65534, 65534)
    assert agent.upload(str(folder / "f"), b"2").status_code == 200


def test_same_path_twice(agent: Any, folder: Path) -> None:
    path = str(folder / "f")
    for files, query in (
        ([(path, b"first"), (path, b"second")], {}),
        ([(path, b"first"), (str(folder / "." / "x" / ".." / "f"), b"second")], {}),
        ([("a", b"first"), ("b", b"second")], {"path": path}),
    ):
        answer = _form(agent, files, query)
        assert (answer.status_code, answer.json()["code"]) == (400, 400)
        assert "same path" in answer.json()["message"]
        assert (folder / "f").read_bytes() == b"first"


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(b"a" * 3_000_000), gzip.compress(b"a" * 2_999_999) + gzip.compress(b"a")],
    ids=["one member", "two members"],
)
def test_gzip_bodies(agent: Any, folder: Path, packed: bytes) -> None:
    path = folder / "f"
    assert agent.upload(str(path), packed, **{"content-encoding": "gzip"}).status_code == 200
    assert path.read_bytes() == b"a" * 3_000_000


def test_gzip_form(agent: Any, folder: Path) -> None:
    path = folder / "f"
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello\r\n--b--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    answer = agent.http.post("/files", params={"path": str(path)}, content=gzip.compress(body), headers=headers)
    assert (answer.status_code, path.read_bytes()) == (200, b"hello")


_PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello'
_OCTETS = {"content-type": "application/octet-stream"}
_FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(b"x" * 1000, mtime=0)[:-3], {**_OCTETS, "content-encoding": "gzip"}),
        (b"", {**_OCTETS, "content-encoding": "gzip"}),
        (b"not gzip", {**_OCTETS, "content-encoding": "gzip"}),
        (gzip.compress(b"x", mtime=0) + b"garbage", {**_OCTETS, "content-encoding": "gzip"}),
        (b"x", {**_OCTETS, "content-encoding": "br"}),
        (b"x", {"content-type": "text/plain"}),
        (b"x", {}),
        (b"x", {"content-type": "multipart/form-data"}),
        (b"x", {"content-type": "multipart/form-data; boundary=" + "b" * 1000}),
        (b"", _FORM),
        (b"garbage", _FORM),
        (_PART, _FORM),
        (_PART + b"\r\n--b-", _FORM),
        (_PART.replace(b"form", b"f" * 20_000) + b"\r\n--b--\r\n", _FORM),
        (b"x", {**_OCTETS, "x-metadata-": "v"}),
        (b"x", {**_OCTETS, "x-metadata-" + "k" * 247: "v"}),
        (b"x", {**_OCTETS, "x-metadata-k": "ü"}),
        (b"x", {**_OCTETS, "x-metadata-k": "v" * 4096}),
    ],
)
def test_bad_bodies_leave_nothing(agent: Any, folder: Path, body: bytes, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = agent.http.post("/files", params={"path": str(folder / "f")}, content=body, headers=raw)
    assert (answer.status_code, answer.json()["code"]) == (400, 400), answer.text
    assert isinstance(answer.json()["message"], str)
    assert list(folder.iterdir()) == []


def test_a_form_that_breaks_off_between_files_is_an_error(agent: Any, folder: Path) -> None:
    """The files before the break are whole and stay; the answer says that not all arrived."""
    answer = agent.http.post(
        "/files", params={"path": str(folder / "f")}, content=_PART + b"\r\n--b\r\n", headers=_FORM
    )
    assert answer.status_code == 400
    assert (folder / "f").read_bytes() == b"hello"


def test_where_no_file_can_be(agent: Any, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "device").symlink_to("/dev/null")
    (folder / "loop").symlink_to("loop")
    (folder / "file").write_bytes(b"kept")
    for path in ("fifo", "device", "loop", "", "file/below", "x" * 300):
        assert agent.upload(str(folder / path), b"x").status_code == 400, path
    for path in ("/proc/self/mem", f"/proc/{agent.pid}/oom_score_adj", "/"):
        assert agent.upload(path, b"x").status_code == 400, path
    assert agent.upload("", b"x").status_code == 400
    assert agent.http.post("/files", params={"path": "/x\0"}, content=b"x", headers=_OCTETS).status_code == 400
    assert (folder / "file").read_bytes() == b"kept"
    assert agent.http.get("/health").status_code == 204


def test_part_without_any_name(agent: Any) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhello\r\n--b--\r\n'
    assert agent.http.post("/files", content=body, headers=_FORM).status_code == 400


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk(agent: Any, small_disk: Path) -> None:
    (small_disk / "old").write_bytes(b"precious")
    content = os.urandom(3 << 20)
    announced = agent.upload(str(small_disk / "old"), content)
    assert (announced.status_code, announced.json()["code"]) == (507, 507)
    assert (small_disk / "old").read_bytes() == b"precious"
    chunked = {"content-type": "application/octet-stream"}
    found = agent.http.post("/files", params={"path": str(small_disk / "f")}, content=iter([content]), headers=chunked)
    assert (found.status_code, found.json()["code"]) == (507, 507)
    assert not (small_disk / "f").exists()
    packed = agent.upload(str(small_disk / "f"), gzip.compress(bytes(8 << 20)), **{"content-encoding": "gzip"})
    assert packed.status_code == 507


def test_metadata(agent: Any, folder: Path) -> None:
    path = str(folder / "f")
    answer = agent.upload(path, b"1", **{"X-Metadata-Author": "Jane Doe", "x-metadata-b": ""})
    if answer.status_code == 501:
        pytest.skip("no user extended attributes here")
    wanted = {"author": "Jane Doe", "b": ""}
    assert answer.json() == [{"name": "f", "path": path, "type": "file", "metadata": wanted}]
    assert agent.call("Stat", {"path": path})["entry"]["metadata"] == wanted
    os.setxattr(path, "user.other", b"kept")
    os.setxattr(path, "user.e2b.inside", b"x")
    assert agent.call("ListDir", {"path": str(folder)})["entries"][0]["metadata"] == {**wanted, "inside": "x"}
    forms = _form(agent, [(path, b"1"), (path + "2", b"2")], None, **{"x-metadata-new": "1"})
    assert [item["metadata"] for item in forms.json()] == [{"new": "1"}] * 2
    assert agent.call("Stat", {"path": path})["entry"]["metadata"] == {"new": "1"}
    assert "metadata" not in agent.upload(path, b"1").json()[0]
    assert "metadata" not in agent.call("Stat", {"path": path})["entry"]
    assert os.listxattr(path) == ["user.other"]


def test_largest_metadata_key(agent: Any, folder: Path) -> None:
    answer = agent.upload(str(folder / "f"), b"1", **{"x-metadata-" + "k" * 246: "v"})
    assert answer.status_code in (200, 501), answer.text


def test_a_client_that_breaks_off_leaves_no_half_file(agent: Any, folder: Path) -> None:
    path = folder / "f"
    port = int(agent.url.rpartition(":")[2])
    head = f"POST /files?path={path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
    for framing in ("Content-Length: 9999999\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nfffff\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall((head + framing).encode() + b"x" * 600_000)
            _until(path.exists)
        _until(lambda: not path.exists())


def _until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("did not happen")


def test_concurrent_uploads(agent: Any, folder: Path) -> None:
    """Started together, ended in turn: none may get another's bytes."""
    port = int(agent.url.rpartition(":")[2])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
    for number, client in enumerate(clients):
        head = f"POST /files?path={folder}/{number} HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
        client.sendall(head.encode() + b"Content-Length: 2000000\r\n\r\n" + bytes([number]) * 1_000_000)
    for number, client in enumerate(clients):
        client.sendall(bytes([number]) * 1_000_000)
        assert client.recv(12) == b"HTTP/1.1 200"
        client.close()
        assert (folder / str(number)).read_bytes() == bytes([number]) * 2_000_000


@pytest.mark.parametrize("form", [False, True])
def test_memory_stays_flat(agent: Any, folder: Path, form: bool) -> None:
    agent.upload(str(folder / "warm"), bytes(4 << 20))
    before = agent.memory()
    piece = os.urandom(1 << 20)
    pieces = [piece] * (LARGE >> 20)
    headers = _FORM if form else _OCTETS
    if form:
        pieces = [_PART.removesuffix(b"hello"), *pieces, b"\r\n--b--\r\n"]
    answer = agent.http.post("/files", params={"path": str(folder / "f")}, content=iter(pieces), headers=headers)
    assert answer.status_code == 200
    assert (folder / "f").stat().st_size == LARGE
    assert agent.memory() - before < 16 << 20


def test_decompression_bomb_keeps_memory_flat(agent: Any, folder: Path) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(LARGE >> 20)) + packer.flush()
    before = agent.memory()
    assert agent.upload(str(folder / "f"), packed, **{"content-encoding": "gzip"}).status_code == 200
    assert (folder / "f").stat().st_size == LARGE
    assert agent.memory() - before < 16 << 20
