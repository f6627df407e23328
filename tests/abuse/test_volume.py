"""A gigabyte in each direction and in every form: nothing of it may stay in the server or in the agent."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.abuse.front import FrontBox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.live import Live

    Create = Callable[..., FrontBox]

GIB, QUARTER = 1 << 30, 1 << 28
PIECE = os.urandom(1 << 20)
OCTETS = {"Content-Type": "application/octet-stream"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
SERVER_GROWTH, AGENT_GROWTH = 32 << 20, 48 << 20


class Flat:
    """Watches the memory of the server's process and of a sandbox's agent."""

    def __init__(self, live: Live, box: FrontBox) -> None:
        self._live = live
        self._box = box
        self._done = threading.Event()
        self._agent: list[int] = []

    def _server(self, name: str) -> int:
        lines = Path(f"/proc/{self._live.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))

    def _agent_now(self) -> int:
        return int(self._box.sh("awk '/^VmRSS/ {print $2}' /proc/1/status")) << 10

    def _sample(self) -> None:
        while not self._done.wait(0.5):
            self._agent.append(self._agent_now())

    def __enter__(self) -> Flat:
        # The highest mark of the server so far would hide what happens below it: begin anew (proc(5), clear_refs).
        Path(f"/proc/{self._live.process.pid}/clear_refs").write_text("5")
        self._before = self._server("VmRSS"), self._agent_now()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()
        self._agent.append(self._agent_now())
        assert self._server("VmHWM") - self._before[0] < SERVER_GROWTH
        assert max(self._agent) - self._before[1] < AGENT_GROWTH, self._agent


def pieces(size: int) -> Iterator[bytes]:
    return (PIECE for _ in range(size // len(PIECE)))


def test_a_gigabyte_up_and_down(live: Live, box: FrontBox) -> None:
    params = {"path": "/big", "username": "root"}
    with box.http() as http, Flat(live, box):
        answer = http.post("/files", params=params, content=pieces(GIB), headers=OCTETS)
        assert answer.status_code == 200, answer.text
        assert int(box.sh("stat -c %s /big")) == GIB
        size = 0
        with http.stream("GET", "/files", params=params) as got:
            assert got.headers["content-length"] == str(GIB)
            for chunk in got.iter_raw(1 << 20):
                assert chunk == PIECE
                size += len(chunk)
        assert size == GIB


def test_a_large_form(live: Live, box: FrontBox) -> None:
    params = {"path": "/big", "username": "root"}
    body = itertools.chain([FORM_HEAD], pieces(QUARTER), [b"\r\n--b--\r\n"])
    with box.http() as http, Flat(live, box):
        answer = http.post("/files", params=params, content=body, headers=FORM)
        assert answer.status_code == 200, answer.text
        assert int(box.sh("stat -c %s /big")) == QUARTER


def test_a_flood_of_output(live: Live, box: FrontBox) -> None:
    """A quarter of a gigabyte, since gVisor's pipes carry some 20 MB/s; four thirds of it on the wire, in base64."""
    size, process = 0, {"cmd": "head", "args": ["-c", str(QUARTER), "/dev/zero"]}
    with Flat(live, box), box.stream("process.Process/Start", {"process": process, "stdin": False}) as got:
        for chunk in got.iter_raw():
            size += len(chunk)
            tail = chunk[-100:]
    assert size > QUARTER * 4 // 3
    assert b"{}" in tail
    assert b"error" not in tail


def test_a_slow_reader_holds_up_nobody(live: Live, box: FrontBox) -> None:
    """Its command waits; the server keeps no more of it than its buffers, and others work."""
    message = {"process": {"cmd": "sh", "args": ["-c", "exec yes"]}, "stdin": False}
    with Flat(live, box), contextlib.ExitStack() as slow:
        readers = []  # kept: an iterator that is dropped closes its connection
        for _ in range(2):
            got = slow.enter_context(box.stream("process.Process/Start", message))
            readers.append(got.iter_raw(1))
            assert next(readers[-1])
        for _ in range(5):
            assert box.alive()
        # What can be written is written some time, and no more is made.
        deadline = time.monotonic() + 40
        before, now = [""], _written(box)
        while before != now:
            assert time.monotonic() < deadline
            time.sleep(0.5)
            before, now = now, _written(box)
        assert len(now) == 2
    box.sh("pkill -KILL yes")


def _written(box: FrontBox) -> list[str]:
    """How much processor time each `yes` has had, in clock ticks."""
    return box.sh("for pid in $(pgrep -x yes); do cut -d' ' -f14,15 /proc/$pid/stat; done").splitlines()


def test_a_command_goes_on_without_its_client(box: FrontBox) -> None:
    with box.start("for i in $(seq 30); do echo $i; echo $i >> /tmp/log; sleep 0.05; done; touch /tmp/end") as events:
        assert "start" in next(events)
        assert "data" in next(events)
    deadline = time.monotonic() + 30
    while box.run("test -e /tmp/end")[0]:
        assert time.monotonic() < deadline
    assert box.sh("tail -n 1 /tmp/log") == "30"


@pytest.mark.parametrize("framing", ["length", "chunked", "form"])
def test_an_upload_that_breaks_off_leaves_no_half_file(live: Live, box: FrontBox, framing: str) -> None:
    target = httpx.URL(live.edge_url)
    for path in ("/tmp/new", "/tmp/old"):
        box.sh("echo old > /tmp/old")
        kind = FORM if framing == "form" else OCTETS
        lines = [f"POST /files?path={path}&username=root HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in {**box.headers(), **kind}.items()]
        lines.append("Transfer-Encoding: chunked" if framing == "chunked" else "Content-Length: 900000000")
        start = FORM_HEAD if framing == "form" else b"fffffff\r\n" if framing == "chunked" else b""
        with socket.create_connection((target.host, target.port or 80)) as client:
            client.sendall("\r\n".join([*lines, "", ""]).encode() + start + PIECE * 4)
            deadline = time.monotonic() + 30
            while int(box.run(f"stat -c %s {path}")[1].split()[0].replace("stat:", "0")) < 1 << 20:
                assert time.monotonic() < deadline
        # The new one is gone. Of the old one's content nothing is left: it must not be half of the new one either.
        wanted = "0" if path == "/tmp/old" else ""
        while box.run(f"stat -c %s {path} 2>/dev/null")[1].strip() != wanted:
            assert time.monotonic() < deadline
    assert box.sh("ls /tmp") == "old"


def test_a_download_that_breaks_off(live: Live, box: FrontBox) -> None:
    box.sh("truncate -s 4G /sparse")
    with Flat(live, box):
        for _ in range(8):
            with box.http() as http, http.stream("GET", "/files", params={"path": "/sparse"}) as got:
                next(got.iter_raw(1 << 20))
        descriptors = "ls -l /proc/1/fd | grep -c sparse"
        deadline = time.monotonic() + 20
        while box.run(descriptors)[1].strip() != "0":
            assert time.monotonic() < deadline


def test_many_streams_at_once(live: Live, create: Create) -> None:
    """Dozens of commands that talk, in several sandboxes: each hears its own, all of it, in order."""
    boxes = [create() for _ in range(3)]
    heard: dict[int, str] = {}

    def listen(number: int) -> None:
        command = f"for i in 1 2 3; do echo {number}-$i; sleep 0.1; done"
        heard[number] = boxes[number % 3].sh(command)

    with Flat(live, boxes[0]):
        threads = [threading.Thread(target=listen, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert heard == {number: f"{number}-1\n{number}-2\n{number}-3" for number in range(60)}
