"""Watchers, polled and streamed (current-protocol 6.2)."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def watching(agent: Any, path: Path, **options: bool) -> Iterator[Any]:
    """Gives a function that returns the new events as (name, short type)."""
    watcher = agent.call("CreateWatcher", {"path": str(path), **options})["watcherId"]

    def events() -> list[tuple[str, str]]:
        found = agent.call("GetWatcherEvents", {"watcherId": watcher})["events"]
        return [(event["name"], event["type"].removeprefix("EVENT_TYPE_")) for event in found]

    yield events
    agent.call("RemoveWatcher", {"watcherId": watcher})


def _all(name: str) -> list[tuple[str, str]]:
    return [(name, "CREATE"), (name, "CHMOD"), (name, "WRITE")]


@pytest.mark.parametrize("size", [1, 100_000, 5_000_000])
def test_an_upload_is_exactly_three_events(agent: Any, folder: Path, size: int) -> None:
    with watching(agent, folder) as events:
        assert events() == []
        assert agent.upload(str(folder / "f"), bytes(size)).status_code == 200
        assert events() == _all("f")
        assert events() == []


def test_an_upload_with_metadata_is_three_events_too(agent: Any, folder: Path) -> None:
    with watching(agent, folder) as events:
        if agent.upload(str(folder / "f"), b"1", **{"x-metadata-a": "b", "x-metadata-c": "d"}).status_code == 501:
            pytest.skip("no user extended attributes here")
        assert events() == _all("f")


def test_recursive(agent: Any, folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    with watching(agent, folder, recursive=True) as events:
        agent.upload(str(folder / "sub" / "deep" / "f"), b"1")
        assert events() == _all("sub/deep/f")
    with watching(agent, folder) as events:
        agent.upload(str(folder / "sub" / "f"), b"1")
        assert events() == []


def test_new_directories_are_followed(agent: Any, folder: Path) -> None:
    with watching(agent, folder, recursive=True) as events:
        agent.call("MakeDir", {"path": str(folder / "new")})
        assert events() == [("new", "CREATE"), ("new", "CHMOD")]
        agent.upload(str(folder / "new" / "f"), b"1")
        assert events() == _all("new/f")


def test_nothing_in_a_new_tree_is_missed(agent: Any, folder: Path) -> None:
    """Made faster than it can be watched: each name is told once."""
    with watching(agent, folder, recursive=True) as events:
        subprocess.run(["sh", "-c", "mkdir -p a/b/c && echo x > a/b/c/f && echo x > a/g"], cwd=folder, check=True)
        found = events()
        created = [name for name, kind in found if kind == "CREATE"]
        assert sorted(created) == ["a", "a/b", "a/b/c", "a/b/c/f", "a/g"]
        assert ("a/b/c/f", "WRITE") in found
        (folder / "a" / "b" / "c" / "later").touch()
        assert ("a/b/c/later", "CREATE") in events()


def test_moves(agent: Any, folder: Path) -> None:
    (folder / "tree" / "d" / "e").mkdir(parents=True)
    (folder / "outside").mkdir()
    tree = folder / "tree"
    with watching(agent, tree, recursive=True) as events:
        (tree / "d").rename(tree / "n")
        assert events() == [("d", "RENAME"), ("n", "CREATE")]
        (tree / "n" / "e" / "f").touch()
        assert ("n/e/f", "CREATE") in events()
        (tree / "n").rename(folder / "outside" / "n")
        assert events() == [("n", "RENAME")]
        (folder / "outside" / "n" / "e" / "g").touch()
        assert events() == []
        (folder / "outside" / "n").rename(tree / "back")
        assert events() == [("back", "CREATE")]
        (tree / "back" / "e" / "h").touch()
        assert ("back/e/h", "CREATE") in events()


def test_removal(agent: Any, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "f").touch()
    with watching(agent, folder, recursive=True) as events:
        agent.call("Remove", {"path": str(folder / "d")})
        assert events() == [("d/f", "REMOVE"), ("d", "REMOVE")]
        (folder / "d").mkdir()
        (folder / "d" / "again").touch()
        assert ("d/again", "CREATE") in events()
        agent.call("Remove", {"path": str(folder)})
        assert (".", "REMOVE") in events()


def test_entries(agent: Any, folder: Path) -> None:
    watcher = agent.call("CreateWatcher", {"path": str(folder), "includeEntry": True})["watcherId"]
    agent.upload(str(folder / "f"), b"12345")
    (folder / "f").rename(folder / "g")
    events = agent.call("GetWatcherEvents", {"watcherId": watcher})["events"]
    agent.upload(str(folder / "h"), b"12345")
    later = agent.call("GetWatcherEvents", {"watcherId": watcher})["events"]
    agent.call("RemoveWatcher", {"watcherId": watcher})
    assert all("entry" not in event for event in events if event["type"] == "EVENT_TYPE_RENAME")
    written = next(event for event in later if event["type"] == "EVENT_TYPE_WRITE")
    assert (written["entry"]["path"], written["entry"]["size"]) == (str(folder / "h"), "5")


def test_life_cycle(agent: Any, folder: Path) -> None:
    watcher = agent.call("CreateWatcher", {"path": str(folder)})["watcherId"]
    assert watcher.startswith("w")
    assert agent.call("RemoveWatcher", {"watcherId": watcher}) == {}
    for method in ("RemoveWatcher", "GetWatcherEvents"):
        assert agent.code(method, {"watcherId": watcher}) == "not_found"
    (folder / "f").touch()
    assert agent.code("CreateWatcher", {"path": str(folder / "no")}) == "not_found"
    assert agent.code("CreateWatcher", {"path": str(folder / "f")}) == "invalid_argument"


def test_too_many_watchers(agent: Any, folder: Path) -> None:
    watchers = []
    for _ in range(101):
        answer = agent.rpc("CreateWatcher", {"path": str(folder)})
        if answer.status_code != 200:
            break
        watchers.append(answer.json()["watcherId"])
    assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
    for watcher in watchers:
        agent.call("RemoveWatcher", {"watcherId": watcher})
    with watching(agent, folder) as events:
        assert events() == []


def test_lost_events_are_told_once(agent: Any, folder: Path) -> None:
    """More than the queue holds."""
    watcher = agent.call("CreateWatcher", {"path": str(folder)})["watcherId"]
    (folder / "f").touch()
    script = "import os\nfor n in range(26000):\n os.rename('f', 'g'); os.rename('g', 'f')"
    subprocess.run(["python3", "-c", script], cwd=folder, check=True)
    answer = agent.rpc("GetWatcherEvents", {"watcherId": watcher})
    assert answer.json()["code"] == "data_loss"
    (folder / "after").touch()
    events = agent.call("GetWatcherEvents", {"watcherId": watcher})["events"]
    assert events[0] == {"name": "after", "type": "EVENT_TYPE_CREATE"}
    agent.call("RemoveWatcher", {"watcherId": watcher})


def _messages(answer: httpx.Response) -> Iterator[tuple[int, dict[str, Any]]]:
    buffer = b""
    for piece in answer.iter_raw():
        buffer += piece
        while len(buffer) >= 5:
            flags, length = struct.unpack(">BI", buffer[:5])
            if len(buffer) < 5 + length:
                break
            yield flags, json.loads(buffer[5 : 5 + length])
            buffer = buffer[5 + length :]


@contextlib.contextmanager
def streaming(agent: Any, message: dict[str, Any], **headers: str) -> Iterator[Iterator[tuple[int, dict[str, Any]]]]:
    payload = json.dumps(message).encode()
    body = struct.pack(">BI", 0, len(payload)) + payload
    wanted = {"content-type": "application/connect+json", **headers}
    with agent.http.stream("POST", "/filesystem.Filesystem/WatchDir", content=body, headers=wanted) as answer:
        assert answer.headers["content-type"] == "application/connect+json"
        yield _messages(answer)


def test_stream(agent: Any, folder: Path) -> None:
    with streaming(agent, {"path": str(folder), "recursive": True}) as messages:
        assert next(messages) == (0, {"start": {}})
        with httpx.Client(base_url=agent.url, trust_env=False) as other:
            other.post("/files", params={"path": str(folder / "f")}, files={"file": ("f", b"1")})
        for kind in ("CREATE", "CHMOD", "WRITE"):
            assert next(messages) == (0, {"filesystem": {"name": "f", "type": f"EVENT_TYPE_{kind}"}})


def test_stream_errors(agent: Any, folder: Path) -> None:
    with streaming(agent, {"path": str(folder / "no")}) as messages:
        flags, end = next(messages)
    assert (flags, end["error"]["code"]) == (2, "not_found")


def test_stream_keepalive(agent: Any, folder: Path) -> None:
    with streaming(agent, {"path": str(folder)}, **{"keepalive-ping-interval": "1"}) as messages:
        assert [next(messages)[1] for _ in range(2)] == [{"start": {}}, {"keepalive": {}}]


def test_a_left_stream_frees_its_watcher(agent: Any, folder: Path) -> None:
    """More in turn than may be open at once; each end is waited for through the number of open descriptors."""
    for _ in range(110):
        with streaming(agent, {"path": str(folder)}) as messages:
            assert next(messages) == (0, {"start": {}})
    for _ in range(500):
        links = [_target(link) for link in Path(f"/proc/{agent.pid}/fd").iterdir()]
        if not [link for link in links if "inotify" in link]:
            return
        agent.http.get("/health")
    pytest.fail("inotify instances are left")


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


def test_watchers_that_are_closed_while_they_are_read_leave_nothing(agent: Any, folder: Path) -> None:
    """A writer keeps the watchers' threads busy while they are removed."""
    script = "import os\nwhile True:\n os.rename('f', 'g'); os.rename('g', 'f')"
    (folder / "f").touch()
    with subprocess.Popen(["python3", "-c", script], cwd=folder) as writer:
        try:
            for _ in range(100):
                watcher = agent.call("CreateWatcher", {"path": str(folder)})["watcherId"]
                agent.call("RemoveWatcher", {"watcherId": watcher})
        finally:
            writer.kill()
    for _ in range(500):
        if not [link for link in Path(f"/proc/{agent.pid}/fd").iterdir() if "inotify" in _target(link)]:
            return
        agent.http.get("/health")
    pytest.fail("inotify instances are left")
