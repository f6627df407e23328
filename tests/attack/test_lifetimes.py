"""Ends that wait for nobody, and deadlines that hold: against guests that do not answer, and work that is under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from tests import leaks
from tests.abuse.front import AGENT, FrontBox
from tests.live import Live
from tests.machines import RUNTIMES, wait_for

from sandpit.protocol.links import sign
from sandpit.server.app import GAVE_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILL = "head -c 200M /dev/urandom > /root/fill"
_HOLD = """cat > /root/hold.py << 'END'
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
time.sleep(0.2)
assert libc.ptrace(16, 1, 0, 0) == 0  # PTRACE_ATTACH
time.sleep(1000)
END
(setsid python3 /root/hold.py > /dev/null 2>&1 &)
"""


def silence(box: FrontBox, runtime: str) -> None:
    """Have its agent answer nobody: root in a gVisor sandbox can do it; in crun's it is done from outside."""
    if runtime == "gvisor":
        box.sh(_HOLD)
    else:
        os.kill(record(box)["pid"], signal.SIGSTOP)

    def silent() -> bool:
        try:
            with box.http() as http:
                http.get("/health", timeout=1)
        except httpx.TimeoutException:
            return True
        return False

    wait_for(silent)


def record(box: FrontBox) -> dict[str, Any]:
    for path in (box.live.data_dir / "sandboxes").glob("*/record.json"):
        found: dict[str, Any] = json.loads(path.read_text())
        if found["sandbox_id"] == box.id:
            return found
    raise AssertionError(f"no record of {box.id}")


def post(live: Live, path: str, body: dict[str, object]) -> httpx.Response:
    with httpx.Client(base_url=live.api_url, headers={"X-API-KEY": live.key}, trust_env=False, timeout=120) as client:
        return client.post(path, json=body)


def nothing_is_left(live: Live, sandbox_ids: list[str], pids: list[int]) -> None:
    """No snapshot, whole or begun, and no process."""
    wait_for(lambda: not any(path.name.startswith(tuple(sandbox_ids)) for path in snapshots(live)))
    wait_for(lambda: not any(alive(pid) for pid in pids))
    for sandbox_id in sandbox_ids:
        assert live.api.get(f"/sandboxes/{sandbox_id}").status_code == 404


def snapshots(live: Live) -> list[Any]:
    return list((live.data_dir / "sandbox-snapshots").glob("*"))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("action", ["pause", "snapshots"])
def test_a_kill_does_not_wait_for_a_snapshot(server: Live, box: FrontBox, runtime: str, action: str) -> None:
    box.sh(FILL)
    pid, before = record(box)["pid"], {path.name for path in snapshots(server)}
    with ThreadPoolExecutor(1) as pool:
        saving = pool.submit(post, server, f"/sandboxes/{box.id}/{action}", {})
        wait_for(lambda: {path.name for path in snapshots(server)} - before)
        killed = server.api.delete(f"/sandboxes/{box.id}")
        assert (killed.status_code, alive(pid)) == (204, False)
        answer = saving.result()
    if answer.status_code == 404:
        assert "was killed" in answer.json()["message"]
    else:  # a file system that shares blocks copies crun's disk at once
        assert (runtime, answer.is_success) == ("crun", True)
        if action == "snapshots":
            server.api.delete(f"/templates/{answer.json()['snapshotID']}")
    wait_for(lambda: {path.name for path in snapshots(server)} <= before)
    nothing_is_left(server, [box.id], [pid])


def test_a_kill_does_not_wait_for_a_guest_that_is_silent(server: Live, box: FrontBox, runtime: str) -> None:
    pid = record(box)["pid"]
    silence(box, runtime)
    with ThreadPoolExecutor(1) as pool:
        pausing = pool.submit(post, server, f"/sandboxes/{box.id}/pause", {})
        time.sleep(0.5)  # it is asking the agent now
        killed = server.api.delete(f"/sandboxes/{box.id}")
        assert (killed.status_code, alive(pid)) == (204, False)
        answer = pausing.result()
    assert (answer.status_code, "was killed" in answer.json()["message"]) == (404, True)
    nothing_is_left(server, [box.id], [pid])


def test_a_kill_does_not_wait_for_a_resume(server: Live, box: FrontBox) -> None:
    box.sh(FILL)
    assert post(server, f"/sandboxes/{box.id}/pause", {}).status_code == 204
    with ThreadPoolExecutor(1) as pool:
        resuming = pool.submit(post, server, f"/sandboxes/{box.id}/resume", {"timeout": 60})
        time.sleep(0.05)
        assert server.api.delete(f"/sandboxes/{box.id}").status_code == 204
        assert resuming.result().status_code in (201, 404, 409)  # 409: the kill was first
    nothing_is_left(server, [box.id], [])
    directories = server.data_dir / "sandboxes"
    wait_for(lambda: not any(box.id in path.read_text() for path in directories.glob("*/record.json")))


def test_resumes_at_once_do_not_pass_the_limit(server: Live) -> None:
    import sqlite3

    key = server.another_team()
    with sqlite3.connect(server.data_dir / "sandpit.db") as database:
        newest = "(SELECT id FROM teams ORDER BY created_at DESC LIMIT 1)"
        database.execute(f"UPDATE teams SET max_sandboxes = 2 WHERE id = {newest}")
    headers = {"X-API-KEY": key}
    with httpx.Client(base_url=server.api_url, headers=headers, trust_env=False, timeout=120) as api:
        ids = []
        for _ in range(4):
            made = api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300})
            assert made.status_code == 201, made.text
            ids.append(made.json()["sandboxID"])
            assert api.post(f"/sandboxes/{ids[-1]}/pause", json={}).status_code == 204
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda it: api.post(f"/sandboxes/{it}/connect", json={"timeout": 300}), ids))
        assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 2
        assert len(api.get("/sandboxes").json()) == 2
        for sandbox_id in ids:
            assert api.delete(f"/sandboxes/{sandbox_id}").status_code == 204


def test_only_a_link_that_the_agent_accepts_wakes_it(
    server: Live, create: Callable[..., FrontBox], runtime: str
) -> None:
    box = create(autoPause=True, autoResume={"enabled": True})
    box.sh("echo content > /home/user/file")
    assert post(server, f"/sandboxes/{box.id}/pause", {}).status_code == 204

    def get(expiration: int, shown: int, *, named: bool) -> int:
        signature = quote(sign("file", "read", "user", box.token, expiration), safe="")
        path = f"/files?path=file&username=user&signature={signature}&signature_expiration={shown}"
        headers = {"E2b-Sandbox-Id": box.id, "E2b-Sandbox-Port": str(AGENT)} if named else {}
        with httpx.Client(base_url=server.edge_url, headers=headers, trust_env=False, timeout=60) as http:
            return http.get(path).status_code

    now = int(time.time())
    for named in (True, False):
        for expiration, shown in ((now - 5, now - 5), (now - 5, now + 60), (now + 60, now + 61)):
            status = get(expiration, shown, named=named)
            # Without live snapshots, no request wakes a sandbox: the edge does not know it.
            assert status == 401 if runtime == "gvisor" else status in (401, 404, 502)
            assert server.api.get(f"/sandboxes/{box.id}").json()["state"] == "paused"
    if runtime == "gvisor":
        assert get(now + 60, now + 60, named=True) == 200
        assert server.api.get(f"/sandboxes/{box.id}").json()["state"] == "running"


@pytest.fixture(params=RUNTIMES)
def own(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """A server that the test stops."""
    live = Live({"SANDPIT_RUNTIME": str(request.param), "SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(live.name)
    live.start()
    yield live
    live.stop()
    live.remove()


def test_deadlines_and_stops(own: Live) -> None:
    """Deadlines hold across servers; a stop ends in time and in order, with silent guests and a snapshot under way."""
    runtime = own.settings["SANDPIT_RUNTIME"]
    short = [FrontBox.create(own, timeout=6) for _ in range(4)]
    held, saved = FrontBox.create(own), FrontBox.create(own)
    own.kill()
    own.start()
    saved.sh(FILL)
    silence(held, runtime)
    wait_for(lambda: all(own.api.get(f"/sandboxes/{box.id}").status_code == 404 for box in short))
    status = json.loads(own.cli("status", "--json").stdout)
    assert (status["sandboxes"]["overdue"], status["overdue"]) == (0, [])
    with ThreadPoolExecutor(2) as pool:
        pool.submit(_ignored, own, f"/sandboxes/{held.id}/pause")
        pool.submit(_ignored, own, f"/sandboxes/{saved.id}/pause")
        time.sleep(0.3)
        own.process.send_signal(signal.SIGTERM)
        own.ended()
    assert own.process.returncode == 0, own.words()
    own.start()
    found = {box.id: own.api.get(f"/sandboxes/{box.id}").json().get("state") for box in (held, saved)}
    assert set(found.values()) <= {"running", "paused"}, "nothing is lost"
    pids = [record(box)["pid"] for box in (held, saved) if found[box.id] == "running"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_ignored, own, f"/sandboxes/{saved.id}/fork")
        own.stop()
    assert own.process.returncode == 0, own.words()
    assert not any(alive(pid) for pid in pids)


def test_a_stop_ends_in_time_whatever_it_waits_for(built_images: None) -> None:
    """By force at last: with the sandboxes' processes, and the next server closes the records."""
    program = (str(Path(__file__).with_name("hanging_server.py")),)
    live = Live({"SANDPIT_RUNTIME": "crun", "SANDPIT_POOL__SIZE": "0"}, program)
    leaks.kept.add(live.name)
    live.start()
    box = FrontBox.create(live)
    pid = record(box)["pid"]
    live.stop()
    assert live.process.returncode == GAVE_UP, live.words()
    wait_for(lambda: not alive(pid))
    live.program = ("-m", "sandpit.cli")
    live.start()
    assert live.api.get(f"/sandboxes/{box.id}").status_code == 404
    live.stop()
    assert live.process.returncode == 0, live.words()
    live.remove()


def _ignored(live: Live, path: str) -> None:
    try:
        post(live, path, {})
    except (httpx.HTTPError, subprocess.SubprocessError):
        return
