"""A server that is killed at any step of its first start, of a later one or of its end: the next one starts, with all that was there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.abuse.test_crashes import host_processes, listed, records, wait_for
from tests.live import Live
from tests.machines import ROOT

from sandpit.lib.partials import remove_tree
from sandpit.server.certificates import located

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)
PROGRAM = str(Path(__file__).with_name("mortal_server.py"))
NEVER = 1 << 30


class Mortal:
    """A server that can be started with a number of changes after which it dies."""

    def __init__(self) -> None:
        self.live = Live({"SANDPIT_POOL__SIZE": "0", "SANDPIT_RUNTIME": "crun", "PYTHONDONTWRITEBYTECODE": "1"})
        self._fate = ROOT / self.live.name / "fate"

    def start_until(self, change: int) -> bool:
        """Start; whether it died before that change. If not, it is ready, and goes on."""
        live = self.live
        state = live.run_dir / "server.json"
        state.unlink(missing_ok=True)
        self._fate.write_text(str(change))
        with live.log.open("ab") as log:
            live.process = subprocess.Popen(
                [sys.executable, "-P", PROGRAM, str(self._fate), "server"],
                env=live.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        leaks.kept_processes.add(live.process.pid)
        deadline = time.monotonic() + 60
        while live.process.poll() is None:
            assert time.monotonic() < deadline, live.words()
            if state.exists():
                return False
            time.sleep(0.01)
        self.died()
        return True

    def died(self) -> None:
        """Wait for its end; it must have been killed, not have failed."""
        status = self.live.process.wait(60)
        leaks.kept_processes.discard(self.live.process.pid)
        assert status == -signal.SIGKILL, self.live.words()

    def kill(self) -> None:
        self.live.process.kill()
        self.died()

    def changes(self) -> list[str]:
        """What it has changed, or was about to change last."""
        return Path(f"{self._fate}.log").read_text().splitlines()

    def check(self, sandboxes: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Start as usual; all is whole, and nothing is left of earlier starts."""
        live = self.live
        live.start()
        assert live.api.get("/sandboxes").status_code == 200, "the key in the file works"
        assert listed(live) == set(records(live)) == sandboxes
        data = live.data_dir
        with closing(sqlite3.connect(data / "sandpit.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert database.execute("SELECT slug FROM teams").fetchall() == [("default",)]
            assert database.execute("SELECT name FROM api_keys").fetchall() == [("first key",)]
        assert (data / "api-key").stat().st_mode & 0o777 == 0o600
        context = ssl.create_default_context(cafile=str(located(data, "e2b.localhost").authority))
        assert live.tls_url is not None
        with httpx.Client(verify=context, trust_env=False) as client:
            client.get(f"https://localhost:{live.tls_url.rpartition(':')[2]}/")
        folders = (data, data / "tls", data / "roots", data / "sandbox-snapshots", data / "build/tmp", live.run_dir)
        assert [path for folder in folders for path in folder.glob("*") if ".new" in path.name] == []
        assert len(list((data / "sandboxes").iterdir())) == len(sandboxes)


@pytest.fixture
def mortal(built_images: None) -> Iterator[Mortal]:
    made = Mortal()
    try:
        yield made
    finally:
        if made.live.process.poll() is not None:
            made.live.start()
        made.live.stop()
        made.live.remove()


def forget(live: Live) -> None:
    """Have no first start behind it; the run directory goes, too, as at every start of the machine."""
    for path in (*live.data_dir.glob("sandpit.db*"), live.data_dir / "api-key"):
        path.unlink(missing_ok=True)
    for folder in (live.data_dir / "tls", live.run_dir):
        remove_tree(folder)


def dice() -> random.Random:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def moments(changes: list[str], random_one: random.Random) -> list[int]:
    """Some of the changes, by number: those of the key, and one out of each part of the start."""
    key = [number for number, change in enumerate(changes, 1) if "api-key" in change or "INTO api_keys" in change]
    assert len(key) >= 3, changes
    half = len(changes) // 2
    return sorted({*key[-2:], random_one.randint(1, half), random_one.randint(half, len(changes))})


def test_any_step_of_a_first_start(mortal: Mortal) -> None:
    """Killed again and again, each time later; then it starts."""
    assert not mortal.start_until(NEVER)
    mortal.kill()
    chosen = moments(mortal.changes(), dice())
    forget(mortal.live)
    for moment in chosen:
        mortal.start_until(moment)
        print(moment, mortal.changes()[-1])
        if mortal.live.process.poll() is None:
            mortal.kill()
    mortal.check()


def test_any_step_of_a_later_start_and_of_the_end(mortal: Mortal) -> None:
    """With a sandbox that runs: it goes on."""
    live = mortal.live
    live.start()
    box = FrontBox.create(live, timeout=3000)
    box.sh("echo kept > /root/file")
    key = live.key
    live.kill()
    assert not mortal.start_until(NEVER)
    start = len(mortal.changes())
    live.process.terminate()
    assert live.process.wait(60) == 0
    leaks.kept_processes.discard(live.process.pid)
    whole = len(mortal.changes())
    assert whole > start
    random_one = dice()
    for moment in (random_one.randint(1, start), random_one.randint(start + 1, whole)):
        if not mortal.start_until(moment):
            live.process.terminate()
            live.process.wait(60)
            leaks.kept_processes.discard(live.process.pid)
        print(moment, mortal.changes()[-1])
    mortal.check({box.id})
    assert live.key == key
    assert box.sh("cat /root/file; hostname").split() == ["kept", box.id]
    box.kill()
    wait_for(lambda: records(live) == {})


def test_after_the_machine_has_been_off(mortal: Mortal) -> None:
    """No process, mount, namespace, rule or run directory is left of what the records tell."""
    live = mortal.live
    live.start()
    running, paused = FrontBox.create(live, timeout=3000), FrontBox.create(live, timeout=3000)
    paused.sh("echo kept > /root/file")
    assert live.api.post(f"/sandboxes/{paused.id}/pause", json={}).status_code == 204
    pids = host_processes(live, records(live)[running.id])
    stale = json.loads((live.run_dir / "server.json").read_text())
    live.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for path in [path for path in live.data_dir.glob("sandboxes/*") if path.is_dir()]:
        for point in sorted(mount_points(path), reverse=True):
            subprocess.run(["umount", "-l", point], check=True)
    for namespace in [path.name for path in Path("/run/netns").glob(f"{live.name}-*")]:
        subprocess.run(["ip", "netns", "del", namespace], check=True)
    for family in ("ip", "netdev"):
        subprocess.run(["nft", "delete", "table", family, live.name], check=True)
    remove_tree(live.run_dir)
    live.run_dir.mkdir()
    # Somebody else's process has the number of the server that was.
    (live.run_dir / "server.json").write_text(json.dumps({**stale, "pid": os.getpid()}))
    assert "no server is running" in live.cli("status").stderr
    live.start()
    assert listed(live) == set()
    assert live.api.get(f"/sandboxes/{running.id}").status_code == 404
    assert live.api.get(f"/sandboxes/{paused.id}").json()["state"] == "paused"
    assert live.api.post(f"/sandboxes/{paused.id}/connect", json={"timeout": 600}).status_code == 201
    assert paused.sh("cat /root/file") == "kept"
    paused.kill()
    wait_for(lambda: list((live.data_dir / "sandboxes").iterdir()) == [])


def mount_points(below: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(f"{below}/")]


@pytest.mark.parametrize("damage", ["server.key", "server.pem", "ca.pem", "truncated"])
def test_a_certificate_that_is_not_whole(tmp_path: Path, damage: str) -> None:
    from sandpit.server.certificates import own_certificate, server_context

    before = own_certificate(tmp_path, "e2b.localhost")
    again = own_certificate(tmp_path, "e2b.localhost")
    assert before.authority is not None
    authority = before.authority.read_text()
    assert again.authority is not None
    assert again.authority.read_text() == authority, "a whole one stays"
    if damage == "truncated":
        before.key.write_bytes(before.key.read_bytes()[:50])
    else:
        before.chain.with_name(damage).unlink()
    after = own_certificate(tmp_path, "e2b.localhost")
    server_context(after)
    assert after.authority is not None
    assert after.bundle is not None
    assert after.authority.read_text() in after.bundle.read_text()
    with contextlib.suppress(FileNotFoundError):
        assert (tmp_path / "tls/.e2b.localhost.new").stat() is None
