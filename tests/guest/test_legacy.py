"""The protocol of 2024 on the wire: what its clients depend on and do not show (legacy-protocol 3 and 4)."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

SECONDS = 30


HOME = {"HOME": "/nonexistent"}
"""Login shells of these tests read no profile of this machine's user."""


class Rpc:
    """One connection, as a client of 2024 holds it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        """Notifications that came while answers were waited for."""

    def send(self, method: str, *params: Any) -> int:
        number = next(self._ids)
        self.socket.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}))
        return number

    def receive(self) -> Any:
        return json.loads(self.socket.recv(SECONDS))

    def answer(self, number: int) -> dict[str, Any]:
        """The answer to a call; events before it are kept."""
        while True:
            message: dict[str, Any] = self.receive()
            if message.get("id") == number:
                return message
            self.events.append(message)

    def call(self, method: str, *params: Any) -> Any:
        answer = self.answer(self.send(method, *params))
        assert set(answer) == {"jsonrpc", "id", "result"}, answer
        return answer["result"]

    def fail(self, method: str, *params: Any) -> tuple[int, str]:
        answer = self.answer(self.send(method, *params))
        assert set(answer) == {"jsonrpc", "id", "error"}, answer
        return answer["error"]["code"], answer["error"]["message"]

    def event(self) -> tuple[str, str, Any]:
        """The next notification: its method, its subscription, its result."""
        message = self.events.pop(0) if self.events else self.receive()
        assert "id" not in message
        return message["method"], message["params"]["subscription"], message["params"]["result"]


@contextmanager
def rpc(agent: Any, **headers: str) -> Iterator[Rpc]:
    with connect(f"ws://{agent.legacy}/ws", additional_headers=headers, max_size=None) as socket:
        yield Rpc(socket)


def test_answers_and_errors(agent: Any, tmp_path: Path) -> None:
    path = str(tmp_path)
    with rpc(agent) as client:
        assert client.call("process_kill", "unknown") is None
        assert client.call("terminal_destroy", "unknown") is None
        assert client.call("filesystem_makeDir", f"{path}/a/b") is None
        assert client.call("filesystem_makeDir", f"{path}/a/b") is None
        assert client.call("filesystem_remove", f"{path}/none") is None
        assert client.fail("process_none") == (-32601, "the method process_none does not exist/is not available")
        assert client.fail("none_start")[0] == -32601
        assert client.fail("process_subscribe", "onNothing", "x") == (
            -32601, 'no "onNothing" subscription in process namespace',
        )  # fmt: skip
        assert client.fail("filesystem_read") == (-32602, "missing value for required argument 0")
        assert client.fail("filesystem_read", "a", "b") == (-32602, "too many arguments, want at most 1")
        assert client.fail("filesystem_read", 5)[0] == -32602
        assert client.fail("process_start", "x", "true", {"A": 1}, "")[0] == -32602
        assert client.fail("process_unsubscribe", "0xnone") == (-32000, "subscription not found")
        assert client.fail("process_stdin", "none", "x") == (-32000, "error finding process 'none'")
        assert client.fail("terminal_data", "none", "x") == (-32000, "error finding terminal 'none'")
        assert client.fail("filesystem_writeBase64", f"{path}/x", "***")[1].startswith(
            "error decoding bytes from base64"
        )
        assert client.fail("filesystem_subscribe", "watchDir", "/none")[1] == (
            "error adding path to dwatcher: '/none': doesn't exist. Only existing paths are supported"
        )
        assert "Only directories are supported" in client.fail("filesystem_subscribe", "watchDir", "/etc/passwd")[1]
        client.socket.send(
            json.dumps({"jsonrpc": "2.0", "id": "text", "method": "filesystem_list", "params": {"path": 1}})
        )
        assert client.receive() == {
            "jsonrpc": "2.0", "id": "text", "error": {"code": -32602, "message": "non-array args"},
        }  # fmt: skip
        client.socket.send(json.dumps([{"jsonrpc": "2.0", "id": 7, "method": "process_kill", "params": ["x"]}, 5]))
        batch = client.receive()
        assert [part.get("id") for part in batch] == [7, None]
        assert batch[1]["error"]["code"] == -32600


def test_nonsense_closes(agent: Any) -> None:
    with rpc(agent) as client:
        client.socket.send("{")
        assert client.receive()["error"]["code"] == -32700
        with pytest.raises(ConnectionClosed):
            client.socket.recv(SECONDS)


def test_a_working_directory_says_why(agent: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for cwd, reason in ((f"{tmp_path}/none", "no such file or directory"), (f"{tmp_path}/file", "not a directory")):
        with rpc(agent) as client:
            code, message = client.fail("process_start", "abc", "true", HOME, cwd)
            assert (code, message) == (-32000, f"error starting process 'abc': fork/exec /bin/bash: {reason}")


def follow(client: Rpc, process: str) -> dict[str, str]:
    names = ("onStdout", "onStderr", "onExit")
    subscriptions = {client.call("process_subscribe", name, process): name for name in names}
    assert len(subscriptions) == 3
    return subscriptions


def test_events_come_in_order_and_end_with_the_exit(agent: Any) -> None:
    with rpc(agent) as client:
        names = follow(client, "p")
        command = "printf 'one\\r\\n\\ntwo \\377'; printf err >&2; exit 7"
        assert client.call("process_start", "p", command, HOME, "/") == "p"
        events: list[tuple[str, Any]] = []
        while not events or events[-1][0] != "onExit":
            method, subscription, result = client.event()
            assert method == "process_subscription"
            events.append((names[subscription], result))
        out = [event for name, event in events if name == "onStdout"]
        assert [event["line"] for event in out] == ["one", "", "two \ufffd"]
        assert {event["type"] for event in out} == {"Stdout"}
        stamps = [event["timestamp"] for event in out]
        assert stamps == sorted(set(stamps))
        assert all(isinstance(stamp, int) and abs(stamp / 1e9 - time.time()) < 600 for stamp in stamps)
        assert [event["line"] for name, event in events if name == "onStderr"] == ["err"]
        assert events[-1] == ("onExit", 7)
        for subscription in names:
            assert client.call("process_unsubscribe", subscription) is True
        assert client.events == []
        assert client.call("process_start", "p", "true", HOME, "/") == "p"  # the id is free again


def test_a_kill_is_told_before_it_is_answered(agent: Any) -> None:
    with rpc(agent) as client:
        names = follow(client, "p")
        client.call("process_start", "p", "echo begun; sleep 1000", HOME, "/")
        assert names[client.event()[1]] == "onStdout"
        client.call("process_kill", "p")
        [event] = client.events
        assert (names[event["params"]["subscription"]], event["params"]["result"]) == ("onExit", -1)


def test_a_destroyed_terminal_tells_nothing(agent: Any) -> None:
    with rpc(agent) as client:
        exits = client.call("terminal_subscribe", "onExit", "t")
        data = client.call("terminal_subscribe", "onData", "t")
        assert client.call("terminal_start", "t", None, None, HOME) == "t"
        client.call("terminal_data", "t", "stty size; trap 'echo bye' HUP\n")
        seen = ""
        while "24 80" not in seen:
            method, subscription, text = client.event()
            assert (method, subscription) == ("terminal_subscription", data)
            seen += text
        client.call("terminal_destroy", "t")
        assert client.fail("terminal_data", "t", "x") == (-32000, "error finding terminal 't'")
        other = client.call("terminal_subscribe", "onExit", "u")
        client.call("terminal_start", "u", 80, 24, HOME, "true", "/")
        ended = [message["params"]["subscription"] for message in client.events]
        while other not in ended and (subscription := client.event()[1]):
            ended.append(subscription)
        assert exits not in ended


def test_both_protocols_see_the_same(agent: Any, tmp_path: Path) -> None:
    with rpc(agent) as client:
        client.call("process_start", "mine", "read line; echo got $line", HOME, str(tmp_path))
        [process] = agent.unary("List", {}).json()["processes"]
        assert process["tag"] == "mine"
        assert process["config"]["args"] == ["-l", "-c", "read line; echo got $line"]
        follow(client, "mine")
        answer = agent.unary(
            "SendInput", {"process": {"tag": "mine"}, "input": {"stdin": base64.b64encode(b"x\n").decode()}}
        )
        assert answer.status_code == 200
        assert client.event()[2]["line"] == "got x"

        _, _ = agent.start("read line; echo also $line", tag="theirs")
        assert client.event()[2] == 0
        follow(client, "theirs")
        client.call("process_stdin", "theirs", "y\n")
        assert client.event()[2]["line"] == "also y"

        client.call("filesystem_write", f"{tmp_path}/file", "grün")
        read = agent.http.get("/files", params={"path": f"{tmp_path}/file", "username": "root"})
        assert read.content == "grün".encode()


def test_calls_run_side_by_side_and_pings_are_answered(agent: Any) -> None:
    """A call that waits holds nothing up: here input that nobody reads."""
    with rpc(agent) as client:
        client.call("process_start", "p", "exec sleep 1000", HOME, "/")
        waiting = client.send("process_stdin", "p", "x" * 1_000_000)
        assert client.call("filesystem_list", "/proc/self/fdinfo") is not None
        assert client.socket.ping().wait(SECONDS)
        assert client.events == []
        client.call("process_kill", "p")
        answer = client.events.pop() if client.events else client.answer(waiting)
        assert answer["id"] == waiting
        assert answer["error"]["message"].startswith("error writing stdin to process 'p'")


def test_a_client_that_goes_leaves_its_processes(agent: Any, tmp_path: Path) -> None:
    with rpc(agent) as client:
        client.call("process_start", "p", f"read line; echo $line > {tmp_path}/got", HOME, "/")
        follow(client, "p")
    with rpc(agent) as client:
        exit_code = client.call("process_subscribe", "onExit", "p")
        client.call("process_stdin", "p", "later\n")
        assert client.event()[1:] == (exit_code, 0)
    assert (tmp_path / "got").read_text() == "later\n"


def test_a_large_file_in_one_message(agent: Any, tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    with rpc(agent) as client:
        client.call("filesystem_writeBase64", f"{tmp_path}/big", base64.b64encode(data).decode())
        assert base64.b64decode(client.call("filesystem_readBase64", f"{tmp_path}/big")) == data
    assert (tmp_path / "big").stat().st_mode & 0o777 == 0o755


def test_a_device_or_a_pipe_is_no_file(agent: Any, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with rpc(agent) as client:
        for path in (f"{tmp_path}/pipe", "/dev/zero"):
            assert "not a regular file" in client.fail("filesystem_read", path)[1]
        assert "not a regular file" in client.fail("filesystem_write", "/proc/self/mem", "x")[1]


def test_forms(agent: Any, tmp_path: Path) -> None:
    url = f"http://{agent.legacy}/file"
    agent.http.post("/init", json={"defaultUser": "root"})
    forms: list[list[tuple[str, tuple[str | None, str | bytes]]]] = [
        [("path", (None, f"{tmp_path}/before")), ("file", ("name", b"content"))],
        [("file", (f"{tmp_path}/name", b"content")), ("path", (None, f"{tmp_path}/behind"))],
    ]
    for parts in forms:
        answer = httpx.post(url, files=parts)
        assert (answer.status_code, answer.content) == (200, b"")
    for name in ("before", "behind"):
        assert (tmp_path / name).read_bytes() == b"content"
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666
    assert httpx.post(url, files=[("path", (None, "/tmp"))]).status_code == 400
    assert httpx.post(url, content=b"no form").status_code == 500
    assert httpx.post(url, files=[("path", (None, "/none/x")), ("file", ("x", b""))]).status_code == 500
    assert httpx.delete(url).status_code == 405
    assert (httpx.get(url).status_code, httpx.get(url).text) == (400, "File path is required")
    assert httpx.get(url, params={"path": str(tmp_path)}).status_code == 500
    answer = httpx.get(url, params={"path": f"{tmp_path}/before"}, headers={"Origin": "https://a.example"})
    assert answer.headers["content-disposition"] == "attachment; filename=before"
    assert (answer.content, answer.headers["access-control-allow-origin"]) == (b"content", "*")


def test_a_secured_sandbox_has_no_open_door(agent: Any) -> None:
    agent.http.post("/init", json={"accessToken": "secret"})
    for headers in ({}, {"X-Access-Token": "wrong"}):
        with pytest.raises(InvalidStatus) as refused, rpc(agent, **headers):
            pass
        assert refused.value.response.status_code == 401
        for method in ("GET", "POST"):
            assert (
                httpx.request(method, f"http://{agent.legacy}/file?path=/etc/passwd", headers=headers).status_code
                == 401
            )
    with rpc(agent, **{"X-Access-Token": "secret"}) as client:
        assert client.call("process_kill", "x") is None
    assert httpx.post(f"http://{agent.legacy}/init", json={}).status_code == 401


def test_many_connections_at_once(agent: Any) -> None:
    """All begin before the protocol's modules are loaded."""
    codes = []

    def use(number: int) -> None:
        with rpc(agent) as client:
            exits = client.call("process_subscribe", "onExit", f"p{number}")
            client.call("process_start", f"p{number}", f"exit {number}", HOME, "/")
            assert client.event()[1] == exits
            codes.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(codes) == list(range(8))
