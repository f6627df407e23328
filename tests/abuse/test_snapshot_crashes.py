"""The server dies at each step of pause, resume, snapshot and fork: the sandbox runs or is paused, never lost, and nothing is left over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.abuse.front import FrontBox
from tests.abuse.test_crashes import listed, wait_for
from tests.live import Live

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)

COUNTER = """
printf '%s\\n' 'n=0; while :; do n=$((n+1)); echo $$ $n > /run/new; mv /run/new /run/count; sleep 0.05; done' > /root/count.sh
rm -f /run/count; (setsid bash /root/count.sh > /dev/null 2>&1 &); until [ -s /run/count ]; do sleep 0.05; done; cat /run/count
"""
GOES_ON = """
read pid before < /run/count
for i in $(seq 200); do read pid now < /run/count; [ "$now" -gt "$before" ] && break; sleep 0.02; done
[ "$now" -gt "$before" ] && echo $pid $before
"""
PAUSE = (
    "after Pausing._set_state",
    "after Gvisor.freeze",
    "after Gvisor.checkpoint",
    "after SnapshotStore.hide",
    "after SnapshotStore.commit",
    "after pause_sandbox",
    "after Pausing.record",
)
RESUME = (
    "after Launcher.launch",
    "before Agent.claim",
    "after Agent.claim",
    "after resume_sandbox",
    "before LocalNode.remove_snapshot",
    "after SnapshotStore.hide",
)
KEPT = ("after SnapshotStore.commit", "after pause_sandbox")
"""From here on the snapshot is the sandbox."""
SNAPSHOT = ("after Gvisor.checkpoint", "after SnapshotStore.commit", "after new_snapshot")
FORK = ("after SnapshotStore.commit", "after Launcher.launch", "before LocalNode.remove_snapshot")


@dataclass
class Victim:
    """A sandbox with a process and a file, on a server that can be told when to die."""

    live: Live
    fault: Path
    box: FrontBox
    process: str = ""
    count: int = 0
    number: int = 0

    def begin(self) -> None:
        """Start the process that must go on."""
        self.process, count = self.box.sh(COUNTER).split()
        self.count = int(count)

    def post(self, what: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return self.live.api.post(f"/sandboxes/{self.box.id}/{what}", json=body or {})

    def mark(self) -> None:
        """Write what must be there after the next life."""
        self.number += 1
        self.box.sh(f"echo {self.number} > /root/mark")

    def crash(self, fault: str, what: str, body: dict[str, Any] | None = None) -> None:
        """Ask for something in which the server dies, and start it again."""
        self.fault.write_text(fault)
        with pytest.raises(httpx.TransportError):
            pytest.fail(f"it did not die {fault}: {self.post(what, body).text}")
        self.live.ended()
        self.fault.unlink()
        self.live.start()

    def state(self, *others: str) -> str:
        """By the API. Beside it, `others` (snapshots) and other sandboxes that are listed, nothing may be there."""
        answer = self.live.api.get(f"/sandboxes/{self.box.id}")
        assert answer.status_code == 200, answer.text
        state = str(answer.json()["state"])
        assert state in ("running", "paused")
        kept = {*others, *([self.box.id] if state == "paused" else [])}
        running = len(listed(self.live))
        wait_for(lambda: set(os.listdir(self.live.data_dir / "sandbox-snapshots")) == kept)
        wait_for(lambda: len(os.listdir(self.live.data_dir / "sandboxes")) == running)
        return state

    def check(self, *others: str, processes: bool = True) -> str:
        """All must be as it was; returns whether it ran or was paused. It runs afterwards."""
        state = self.state(*others)
        assert self.post("connect", {"timeout": 600}).status_code == (201 if state == "paused" else 200)
        assert self.box.sh("cat /root/mark") == str(self.number)
        if state == "running" or processes:
            process, count = self.box.sh(GOES_ON).split()
            assert process == self.process
            assert int(count) >= self.count
            self.count = int(count)
        else:
            self.begin()
        return state


@pytest.fixture(params=["gvisor"])
def victim(built_images: None, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victim]:
    fault = tmp_path / "fault"
    program = (str(Path(__file__).with_name("faulty_server.py")), str(fault))
    live = Live({"SANDPIT_POOL__SIZE": "0", "SANDPIT_RUNTIME": request.param}, program)
    live.start()
    try:
        victim = Victim(live, fault, FrontBox.create(live, timeout=600))
        victim.begin()
        yield victim
    finally:
        fault.unlink(missing_ok=True)
        live.stop()
        live.remove()


def test_pause(victim: Victim) -> None:
    seen = []
    for fault in PAUSE:
        victim.mark()
        victim.crash(fault, "pause")
        seen.append(victim.check())
    assert seen == ["running"] * 4 + ["paused"] * 3


def test_resume(victim: Victim) -> None:
    seen = []
    for fault in RESUME:
        victim.mark()
        assert victim.post("pause").status_code == 204
        victim.crash(fault, "connect", {"timeout": 600})
        seen.append(victim.check())
    assert seen == ["paused"] * 4 + ["running"] * 2


def test_snapshot(victim: Victim) -> None:
    for fault in SNAPSHOT:
        victim.mark()
        victim.crash(fault, "snapshots")
        assert victim.live.api.get("/snapshots").json() == []
        assert victim.check() == "running"


def test_fork(victim: Victim) -> None:
    """A copy that nobody was told of is whole, or not there."""
    for fault in FORK:
        victim.mark()
        victim.crash(fault, "fork", {"count": 1, "timeout": 600})
        copies = listed(victim.live) - {victim.box.id}
        assert len(copies) == (fault == "before LocalNode.remove_snapshot")
        for copy in copies:
            token = victim.live.api.get(f"/sandboxes/{copy}").json()["envdAccessToken"]
            box = FrontBox(victim.live, copy, token)
            assert box.sh("cat /root/mark; hostname").split() == [str(victim.number), copy]
            assert box.sh(GOES_ON).split()[0] == victim.process
            box.kill()
        assert victim.check() == "running"


def test_pause_without_memory(victim: Victim) -> None:
    """Processes that were stopped for it run again."""
    for fault in ("after Agent.save_disk", "after SnapshotStore.commit", "after pause_sandbox"):
        victim.mark()
        victim.crash(fault, "pause", {"memory": False})
        assert victim.check(processes=False) == ("paused" if fault in KEPT else "running")


@pytest.mark.parametrize("victim", ["crun"], indirect=True)
def test_pause_of_a_disk_image(victim: Victim) -> None:
    """Its file system is frozen meanwhile, and must be thawed by the next server."""
    for fault in ("after Crun.freeze", "after copy", "after SnapshotStore.commit", "after pause_sandbox"):
        victim.mark()
        victim.crash(fault, "pause")
        assert victim.check(processes=False) == ("paused" if fault in KEPT else "running")


def test_a_checkpoint_command_that_dies(victim: Victim) -> None:
    """The runtime's own command is killed in the middle: pause fails, the sandbox goes on."""
    victim.mark()
    killed: list[int] = []

    def hunt() -> list[int]:
        killed.extend(kill_checkpoints(victim.live))
        return killed

    hunter = threading.Thread(target=lambda: wait_for(hunt, pause=0))
    hunter.start()
    answer = victim.post("pause")
    hunter.join()
    assert answer.status_code == 500, answer.text
    assert "runs on" in answer.json()["message"]
    assert victim.check() == "running"
    assert victim.post("pause").status_code == 204
    assert victim.check() == "paused"


def kill_checkpoints(live: Live) -> Iterator[int]:
    """End the commands of this server that take a checkpoint."""
    mark = str(live.run_dir).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"checkpoint" in words and any(mark in word for word in words):
                os.kill(int(path.parent.name), signal.SIGKILL)
                yield int(path.parent.name)


def test_damage_is_answered(victim: Victim) -> None:
    """A damaged, truncated or missing file is refused with the reason, and all is kept: mended, it resumes."""
    victim.mark()
    assert victim.post("pause").status_code == 204
    directory = victim.live.data_dir / "sandbox-snapshots" / victim.box.id
    pages = max(directory.iterdir(), key=lambda path: path.stat().st_size)
    whole = pages.read_bytes()
    middle = len(whole) // 2
    damages: tuple[bytes | None, ...] = (
        whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        whole[:middle],
        None,
    )
    for damaged in damages:
        pages.unlink()
        if damaged is not None:
            pages.write_bytes(damaged)
        answer = victim.post("connect", {"timeout": 600})
        assert answer.status_code == 500, answer.text
        assert f"{pages.name} is not what was written" in answer.json()["message"]
        assert victim.state() == "paused"
        pages.write_bytes(whole)
    assert victim.check() == "paused"
