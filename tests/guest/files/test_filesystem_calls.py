"""Stat, ListDir, MakeDir, Move, Remove (current-protocol 6.2)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def _entry(agent: Any, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = agent.call("Stat", {"path": str(path)})["entry"]
    return entry


def _paths(agent: Any, path: str, **more: Any) -> list[str]:
    return [entry["path"] for entry in agent.call("ListDir", {"path": path, **more})["entries"]]


def test_stat_of_a_file(agent: Any, folder: Path) -> None:
    path = folder / "f.txt"
    path.write_bytes(b"12345")
    path.chmod(0o640)
    os.chown(path, 65534, 0)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    assert _entry(agent, path) == {
        "name": "f.txt",
        "type": "FILE_TYPE_FILE",
        "path": str(path),
        "size": "5",
        "mode": 0o640,
        "permissions": "-rw-r-----",
        "owner": "nobody",
        "group": "root",
        "modifiedTime": "2023-11-14T22:13:20.123456789Z",
    }


def test_permissions_are_spelled_as_officially(agent: Any, folder: Path) -> None:
    spelled = {0o755: "drwxr-xr-x", 0o1777: "dtrwxrwxrwx", 0o2700: "dgrwx------", 0o000: "d---------"}
    for mode, text in spelled.items():
        folder.joinpath("d").mkdir(exist_ok=True)
        folder.joinpath("d").chmod(mode)
        entry = _entry(agent, folder / "d")
        assert (entry["permissions"], entry["mode"], entry["type"]) == (text, mode & 0o777, "FILE_TYPE_DIRECTORY")


def test_links(agent: Any, folder: Path) -> None:
    """`isSymlink` stays unset: a link to a file is a FILE with a target (6.2)."""
    (folder / "real").mkdir()
    (folder / "real" / "f").write_bytes(b"123")
    (folder / "way").symlink_to("real")
    (folder / "link").symlink_to("way/f")
    (folder / "dead").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    link, way, dead = (_entry(agent, folder / name) for name in ("link", "way", "dead"))
    assert "isSymlink" not in link
    assert (link["type"], link["symlinkTarget"]) == ("FILE_TYPE_FILE", str(folder / "real" / "f"))
    assert (link["permissions"], link["mode"]) == ("Lrwxrwxrwx", 0o644)
    assert (way["type"], way["symlinkTarget"]) == ("FILE_TYPE_DIRECTORY", str(folder / "real"))
    assert (dead["type"], dead["symlinkTarget"]) == ("FILE_TYPE_SYMLINK", str(folder / "nowhere"))
    assert _entry(agent, folder / "loop")["type"] == "FILE_TYPE_SYMLINK"


def test_special_files_have_no_type(agent: Any, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert _entry(agent, folder / "fifo")["type"] == "FILE_TYPE_UNSPECIFIED"
    assert _entry(agent, Path("/dev/null"))["permissions"].startswith("Dcrw")


@pytest.mark.parametrize("method", ["Stat", "ListDir"])
def test_missing(agent: Any, folder: Path, method: str) -> None:
    assert agent.code(method, {"path": str(folder / "no")}) == "not_found"
    answer = agent.rpc(method, {"path": str(folder / "no")})
    assert answer.status_code == 404


def test_bad_paths(agent: Any, folder: Path) -> None:
    (folder / "f").touch()
    assert agent.code("Stat", {"path": str(folder / "f" / "x")}) == "not_found"
    for path in ("/a\0b", "/\ud800", "/" + "x" * 300):
        assert agent.code("Stat", {"path": path}) == "invalid_argument", path
        assert agent.code("MakeDir", {"path": path}) == "invalid_argument", path
        assert agent.code("Remove", {"path": path}) == "invalid_argument", path
    assert agent.code("Stat", {"path": 5}) == "invalid_argument"
    assert agent.code("ListDir", {"path": "/", "depth": -1}) == "invalid_argument"
    answer = agent.rpc("Stat", {"path": "/"}, authorization="Basic bm9zdWNodXNlcjo=")
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid username: 'nosuchuser'")


def test_home(agent: Any) -> None:
    for path in ("~", ""):
        assert agent.call("Stat", {"path": path})["entry"]["path"] == "/root"
    assert agent.call("Stat", {"path": "/"})["entry"]["name"] == "/"


@pytest.fixture
def forest(folder: Path) -> Path:
    for name in ("b/y/deep", "b/x", "a", "c"):
        (folder / name).mkdir(parents=True)
    for name in ("b/y/deep/f", "b.txt", "a/1", "a/10", "a/2", "B"):
        (folder / name).touch()
    (folder / "link").symlink_to("b")
    return folder


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (1, "B a b b.txt c link"),
        (2, "B a a/1 a/10 a/2 b b/x b/y b.txt c link"),
        (3, "B a a/1 a/10 a/2 b b/x b/y b/y/deep b.txt c link"),
        (4294967295, "B a a/1 a/10 a/2 b b/x b/y b/y/deep b/y/deep/f b.txt c link"),
    ],
)
def test_walk_order(agent: Any, forest: Path, depth: int, names: str) -> None:
    assert _paths(agent, str(forest), depth=depth) == [f"{forest}/{name}" for name in names.split()]


def test_depth_zero_is_one(agent: Any, forest: Path) -> None:
    assert _paths(agent, str(forest), depth=0) == _paths(agent, str(forest), depth=1) == _paths(agent, str(forest))


def test_a_linked_root_keeps_its_name(agent: Any, forest: Path) -> None:
    assert _paths(agent, f"{forest}/link/") == [f"{forest}/link/x", f"{forest}/link/y"]


def test_list_of_a_file(agent: Any, forest: Path) -> None:
    answer = agent.rpc("ListDir", {"path": f"{forest}/B"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert "path is not a directory" in answer.json()["message"]


def test_list_many(agent: Any, folder: Path) -> None:
    """More than one batch of encoding, and an empty directory."""
    assert agent.call("ListDir", {"path": str(folder)}) == {"entries": []}
    for number in range(2001):
        (folder / f"{number:05d}").touch()
    assert _paths(agent, str(folder)) == [f"{folder}/{number:05d}" for number in range(2001)]


def test_make_dir(agent: Any, folder: Path) -> None:
    path = folder / "a" / "b"
    answer = agent.rpc("MakeDir", {"path": str(path)}, authorization="Basic bm9ib2R5Og==")
    assert answer.json()["entry"]["owner"] == "nobody"
    assert [(p.owner(), p.stat().st_mode & 0o7777) for p in (path, path.parent)] == [("nobody", 0o755)] * 2
    assert agent.code("MakeDir", {"path": str(path)}) == "already_exists"
    (folder / "link").symlink_to("a")
    assert agent.code("MakeDir", {"path": str(folder / "link")}) == "already_exists"
    (folder / "f").touch()
    (folder / "dead").symlink_to("nowhere")
    for name in ("f", "f/x", "f/x/y", "dead", "dead/x"):
        assert agent.code("MakeDir", {"path": str(folder / name)}) == "invalid_argument", name


def test_move(agent: Any, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "f").write_bytes(b"1")
    entry = agent.call("Move", {"source": str(folder / "d"), "destination": str(folder / "new" / "e")})["entry"]
    assert (entry["path"], entry["type"]) == (str(folder / "new" / "e"), "FILE_TYPE_DIRECTORY")
    assert (folder / "new" / "e" / "f").read_bytes() == b"1"
    missing = {"source": str(folder / "no"), "destination": str(folder / "q" / "x")}
    assert agent.code("Move", missing) == "not_found"
    assert not (folder / "q").exists()
    (folder / "full").mkdir()
    (folder / "full" / "f").touch()
    taken = {"source": str(folder / "new"), "destination": str(folder / "full")}
    assert agent.code("Move", taken) == "already_exists"
    inside = {"source": str(folder / "full"), "destination": str(folder / "full" / "in")}
    assert agent.code("Move", inside) == "invalid_argument"


@pytest.fixture
def other_disk(folder: Path) -> Iterator[Path]:
    path = folder / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount")
    yield path
    subprocess.run(["umount", path], check=True)


def test_move_to_another_file_system(agent: Any, folder: Path, other_disk: Path) -> None:
    source = folder / "d"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_bytes(b"1")
    (source / "sub" / "f").chmod(0o4755)
    os.chown(source / "sub", 65534, 65534)
    os.utime(source / "sub", ns=(0, 10**18))
    (source / "link").symlink_to("/nowhere")
    entry = agent.call("Move", {"source": str(source), "destination": str(other_disk / "moved")})["entry"]
    assert entry["path"] == str(other_disk / "moved")
    moved = other_disk / "moved"
    assert not source.exists()
    assert (moved / "sub").owner() == "nobody"
    assert (moved / "sub").stat().st_mtime_ns == 10**18
    assert (moved / "sub" / "f").stat().st_mode & 0o7777 == 0o4755
    assert (moved / "link").readlink() == Path("/nowhere")
    assert sorted(path.name for path in other_disk.iterdir()) == ["moved"]


def test_a_move_that_does_not_fit_loses_nothing(agent: Any, folder: Path, other_disk: Path) -> None:
    source = folder / "big"
    source.mkdir()
    (source / "f").write_bytes(bytes(4 << 20))
    message = {"source": str(source), "destination": str(other_disk / "moved")}
    assert agent.code("Move", message) == "resource_exhausted"
    assert (source / "f").stat().st_size == 4 << 20
    assert list(other_disk.iterdir()) == []


def test_remove(agent: Any, forest: Path) -> None:
    outside = forest.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (forest / "b" / "out").symlink_to(outside)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(forest / "b" / "s"))
        agent.call("Remove", {"path": str(forest / "b" / "out")})
        (forest / "b" / "out").symlink_to(outside)
        agent.call("Remove", {"path": str(forest / "b") + "/"})
    assert not (forest / "b").exists()
    assert (outside / "kept").exists()
    for name in ("b", "nothing/at/all", "B", "B", "B/x", "link"):
        assert agent.call("Remove", {"path": str(forest / name)}) == {}
    assert sorted(path.name for path in forest.iterdir()) == ["a", "b.txt", "c"]
    for root in ("/", "//", "/.", "/etc/.."):
        assert agent.code("Remove", {"path": root}) == "invalid_argument"


def test_remove_deeper_than_a_path_can_be_long(agent: Any, folder: Path) -> None:
    """1100 levels of 40 letters: longer than PATH_MAX, deeper than Python's stack."""
    name = "deep" * 10
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert len(_paths(agent, str(folder), depth=5000)) > 90
    agent.call("Remove", {"path": str(folder / name)})
    assert list(folder.iterdir()) == []


def test_names_that_are_not_utf8(agent: Any, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe")).touch()
    entry = agent.call("ListDir", {"path": str(folder)})["entries"][0]
    assert re.fullmatch("\ufffd+", entry["name"])
