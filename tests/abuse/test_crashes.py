"""SIGKILL of our processes at any moment: what was promised to a client is kept, what was not leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from e2b import NotFoundException, Sandbox
from e2b_code_interpreter import Sandbox as Interpreter
from tests.abuse.front import FrontBox
from tests.live import Live
from tests.machines import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(120)


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on: clients must find a restarted server where the first one was."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in sockets]


def own_server(**settings: str) -> Live:
    api, edge = free_ports(2)
    return Live({"SANDPIT_API_PORT": api, "SANDPIT_EDGE_PORT": edge, **settings})


@pytest.fixture
def own(built_images: None) -> Iterator[Live]:
    """A server that a test may kill."""
    server = own_server(SANDPIT_POOL__SIZE="1")
    server.start()
    yield server
    server.stop()
    server.remove()


def wait_for(what: Callable[[], object], seconds: float = 30, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(pause)


def records(live: Live) -> dict[str, dict[str, Any]]:
    """What the node keeps on disk, by sandbox id; sandboxes of the pool left out."""
    found = {}
    for path in (live.data_dir / "sandboxes").glob("*/record.json"):
        with contextlib.suppress(FileNotFoundError):
            record = json.loads(path.read_text())
            if record["sandbox_id"] is not None:
                found[record["sandbox_id"]] = record
    return found


def listed(live: Live) -> set[str]:
    """Ids of the sandboxes that the API tells."""
    return {one["sandboxID"] for one in live.api.get("/sandboxes").json()}


def options(live: Live) -> dict[str, Any]:
    """How official clients are told of a server."""
    return {"api_key": live.key, "api_url": live.api_url, "sandbox_url": live.edge_url}


@pytest.mark.official_client
def test_clients_go_on_after_a_crash(own: Live) -> None:
    """Processes, kernel variables, files, rules, deadlines, metadata: all is as it was."""
    here = options(own)
    machine = Sandbox.create(metadata={"who": "me"}, timeout=600, allow_internet_access=False, **here)
    notebook = Interpreter.create(timeout=600, **here)
    brief, ended = Sandbox.create(timeout=4, **here), Sandbox.create(**here)
    assert ended.kill()
    counter = machine.commands.run(
        "while :; do echo x >> /tmp/count; read -t 0.1 line && echo got $line; done", background=True, stdin=True
    )
    machine.files.write("/home/user/file", "kept")
    assert notebook.run_code("x = 41; import os; pid = os.getpid()").error is None
    context = notebook.create_code_context(cwd="/tmp")
    assert notebook.run_code("y = 'other'", context=context).error is None
    before = {one.sandbox_id: one for one in (machine.get_info(), notebook.get_info())}

    own.kill()
    time.sleep(4)  # the brief one's end passes
    with pytest.raises(Exception, match=r"."):
        machine.commands.run("true")
    own.start()

    count = int(machine.commands.run("wc -l < /tmp/count").stdout)
    wait_for(lambda: int(machine.commands.run("wc -l < /tmp/count").stdout) > count)
    assert [process.pid for process in machine.commands.list()] == [counter.pid]
    machine.commands.send_stdin(counter.pid, "hello\n")
    again = machine.commands.connect(counter.pid)
    machine.commands.send_stdin(counter.pid, "there\n")
    assert next(part[0] for part in again if part[0] and "there" in part[0])
    assert machine.commands.kill(counter.pid)
    assert machine.files.read("/home/user/file") == "kept"
    assert notebook.run_code("(x + 1, pid == os.getpid())").text == "(42, True)"
    assert notebook.run_code("y", context=context).text == "other"
    after = {one.sandbox_id: one for one in (machine.get_info(), notebook.get_info())}
    assert {key: (one.end_at, one.started_at, one.metadata) for key, one in after.items()} == {
        key: (one.end_at, one.started_at, one.metadata) for key, one in before.items()
    }
    assert records(own)[machine.sandbox_id]["network"]["deny_out"]
    wait_for(lambda: listed(own) == set(before))
    wait_for(lambda: set(records(own)) == set(before))
    for lost in (brief, ended):
        assert not lost.is_running()
        with pytest.raises(NotFoundException):
            lost.get_info()
    machine.set_timeout(1)
    wait_for(lambda: listed(own) == {notebook.sandbox_id})
    other = Sandbox.create(**here)
    assert other.commands.run("hostname").stdout.strip() == other.sandbox_id
    assert notebook.kill()
    assert other.kill()


class Customers:
    """Threads that create and kill as fast as they can, and what they were told."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._stop = threading.Event()
        self.kept: set[str] = set()
        """Created for certain, and nobody asked to kill them."""
        self.killed: set[str] = set()
        """Killed for certain."""
        self.unsure: set[str] = set()
        """Asked to be killed, without an answer."""
        self.refused: list[str] = []

    def run(self, seconds: float, then: Callable[[], None]) -> None:
        """Work for a time, do something in the middle of it, and stop."""
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        then()
        self._stop.set()
        for thread in threads:
            thread.join()

    def _work(self, seed: int) -> None:
        dice = random.Random(seed)
        with httpx.Client(base_url=self._live.api_url, headers={"X-API-KEY": self._live.key}, trust_env=False) as api:
            while not self._stop.is_set():
                try:
                    answer = api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 600}, timeout=60)
                except httpx.TransportError:
                    continue
                if answer.status_code != 201:
                    self.refused.append(answer.text)
                    continue
                made = answer.json()["sandboxID"]
                if dice.random() < 0.3:
                    self.kept.add(made)
                    continue
                try:
                    status = api.delete(f"/sandboxes/{made}").status_code
                except httpx.TransportError:
                    self.unsure.add(made)
                    continue
                (self.killed if status == 204 else self.unsure).add(made)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_killed_at_random_moments(built_images: None, runtime: str) -> None:
    live = own_server(SANDPIT_RUNTIME=runtime, SANDPIT_POOL__SIZE="1")
    live.start()
    wait_for(lambda: live.api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 1}).status_code == 201)
    dice = random.Random()
    kept: set[str] = set()
    try:
        for _ in range(3):
            customers = Customers(live)
            customers.run(dice.uniform(0.1, 1.0), live.kill)
            live.start()
            assert customers.refused == []
            now = listed(live)
            kept |= customers.kept
            assert kept <= now, f"lost: {kept - now}"
            assert not customers.killed & now, "came back"
            # What is more than that nobody was told of; each is whole, or will be ended.
            wait_for(lambda: set(records(live)) == listed(live))
            for sandbox_id in listed(live) - kept:
                assert live.api.delete(f"/sandboxes/{sandbox_id}").status_code == 204
        for sandbox_id in kept:
            token = live.api.get(f"/sandboxes/{sandbox_id}").json()["envdAccessToken"]
            box = FrontBox(live, sandbox_id, token)
            assert box.sh("hostname") == sandbox_id
            box.kill()
        wait_for(lambda: records(live) == {})
    finally:
        live.stop()
        live.remove()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_start_that_outlives_the_server(built_images: None, runtime: str) -> None:
    """A slow runtime must not bring a sandbox to life after the next server has tidied up."""
    live = own_server(SANDPIT_RUNTIME=runtime, SANDPIT_POOL__SIZE="0")
    live.start()
    FrontBox.create(live).kill()
    try:
        made: list[str] = []
        customer = threading.Thread(target=create_until_refused, args=(live.api_url, live.key, made))
        customer.start()
        caught: list[int] = []

        def catch() -> list[int]:
            caught.extend(pid for pid in runtime_commands(live) if stopped(pid))
            return caught

        wait_for(catch, pause=0)
        live.kill()
        customer.join()
        live.start()
        for pid in caught:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        time.sleep(1)
        assert listed(live) == set(records(live)) == set(made)
        assert len(list((live.data_dir / "sandboxes").iterdir())) == len(made)
    finally:
        live.stop()
        live.remove()


def create_until_refused(url: str, key: str, made: list[str]) -> None:
    """Make sandboxes one after the other until the server is gone."""
    with (
        httpx.Client(base_url=url, headers={"X-API-KEY": key}, trust_env=False, timeout=60) as api,
        contextlib.suppress(httpx.TransportError),
    ):
        while True:
            made.append(api.post("/sandboxes", json={"templateID": "base", "timeout": 600}).json()["sandboxID"])


def runtime_commands(live: Live) -> Iterator[int]:
    """Pids of runtimes' commands of this server that start a container."""
    mark = str(live.data_dir).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if {b"run", b"restore"} & set(words) and any(mark in word for word in words):
                yield int(path.parent.name)


def stopped(pid: int) -> bool:
    """Stop a process in its tracks; whether it was there."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("part", ["first process", "everything"])
def test_a_runtime_that_dies_takes_its_sandbox_only(live: Live, create: Callable[..., FrontBox], part: str) -> None:
    box, neighbour = create(), create()
    record = records(live)[box.id]
    directory = live.data_dir / "sandboxes" / record["container_id"]
    with box.start("echo on; sleep 1000") as events:
        assert "start" in next(events)
        assert "data" in next(events)
        victims = [record["pid"]] if part == "first process" else host_processes(live, record)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        rest = []
        with contextlib.suppress(
            httpx.TransportError
        ):  # cut, or ended with an error: nobody may take it for the command's end
            rest = list(events)
        assert not any("end" in event for event in rest)
    wait_for(lambda: live.api.get(f"/sandboxes/{box.id}").status_code == 404)
    assert box.id not in listed(live)
    with box.http() as http:
        assert http.get("/health").json()["message"] == "The sandbox ended: its first process ended. It was not found"
    assert live.api.delete(f"/sandboxes/{box.id}").status_code == 404
    wait_for(lambda: not directory.exists())
    assert neighbour.alive()


def host_processes(live: Live, record: dict[str, Any]) -> list[int]:
    """All pids in a sandbox's control group."""
    group = next(Path("/sys/fs/cgroup").glob(f"**/{live.name}/{record['container_id']}/cgroup.procs"))
    return [int(line) for line in group.read_text().split()]


def test_a_runtimes_helper_that_dies(live: Live, create: Callable[..., FrontBox]) -> None:
    """gVisor's gofer, its only way to files of the host, is part of the sandbox."""
    box, neighbour = create(), create()
    record = records(live)[box.id]
    helpers = [pid for pid in host_processes(live, record) if b"gofer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert helpers
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: live.api.get(f"/sandboxes/{box.id}").status_code == 404)
    assert neighbour.alive()


def test_down_keeps_sandboxes_or_ends_them(own: Live) -> None:
    box = FrontBox.create(own, timeout=600)
    box.sh("echo kept > /root/file")
    done = own.cli("down")
    assert done.returncode == 0, done.stderr
    assert "sandboxes go on" in done.stdout
    own.ended()
    own.start()
    assert box.sh("cat /root/file") == "kept"
    done = own.cli("down", "--sandboxes")
    assert done.returncode == 0, done.stderr
    own.ended()
    assert records(own) == {}
    assert list((own.data_dir / "sandboxes").iterdir()) == []
    own.start()
    assert own.api.get(f"/sandboxes/{box.id}").status_code == 404


def test_down_sandboxes_when_the_server_is_dead(own: Live) -> None:
    FrontBox.create(own, timeout=600)
    own.kill()
    assert len(records(own)) == 1
    done = own.cli("down", "--sandboxes")
    assert done.returncode == 0, done.stderr
    assert list((own.data_dir / "sandboxes").iterdir()) == []
