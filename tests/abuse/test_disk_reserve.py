"""The operator's reserve on the disk: what would reach into it is refused with the reason, before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.abuse.test_crashes import wait_for
from tests.abuse.test_full_disk import SmallDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20
RESERVE = 40


class RoomyDisk(SmallDisk):
    """Room for some snapshots."""

    megabytes = 400

    def free(self) -> int:
        found = os.statvfs(self.data_dir)
        return found.f_bavail * found.f_frsize

    def leave(self, megabytes: int) -> None:
        """Fill the disk but for the reserve and so much more."""
        self.filler.unlink(missing_ok=True)
        with self.filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free() - (RESERVE + megabytes) * MIB)


@pytest.fixture(scope="module")
def own(built_images: None) -> Iterator[RoomyDisk]:
    server = RoomyDisk({"SANDPIT_POOL__SIZE": "0", "SANDPIT_DISK_RESERVE_MB": str(RESERVE)})
    leaks.kept.add(server.name)
    server.mount()
    server.start()
    yield server
    server.filler.unlink(missing_ok=True)
    server.stop()
    server.remove()


def refused(answer: httpx.Response) -> bool:
    if answer.status_code != 507:
        return False
    message = answer.json()["message"]
    assert "No space left on device" in message
    assert f"{RESERVE} MiB kept in reserve" in message
    return True


def upload_link(own: RoomyDisk) -> tuple[dict[str, Any], str]:
    """A new template's build, and where its files go."""
    made = own.api.post("/v3/templates", json={"name": f"t{time.monotonic_ns()}"}).json()
    digest = hashlib.sha256(str(time.monotonic_ns()).encode()).hexdigest()
    return made, own.api.get(f"/templates/{made['templateID']}/files/{digest}").json()["url"]


def test_the_reserve_is_kept(own: RoomyDisk) -> None:
    box = FrontBox.create(own, timeout=600)
    box.sh("(setsid sleep 1000 > /dev/null 2>&1 &)")
    own.leave(4)
    free = own.free()
    assert refused(own.api.post("/v2/sandboxes", json={"templateID": "base"}))
    for what in ("pause", "snapshots", "fork"):
        assert refused(own.api.post(f"/sandboxes/{box.id}/{what}", json={})), what
        assert box.sh("pgrep -c sleep") == "1"
    made, link = upload_link(own)
    assert refused(httpx.put(link, content=bytes(8 * MIB), trust_env=False))
    chunked = httpx.put(link, content=(bytes(MIB) for _ in range(8)), trust_env=False)
    assert refused(chunked)
    assert not list(own.data_dir.glob("uploads/*/*"))
    assert free - own.free() < MIB

    state = json.loads(own.cli("status", "--json").stdout)["disk"]
    assert (state["reserve"], state["promised"]) == (RESERVE * MIB, 0)
    assert state["free"] < (RESERVE + 5) * MIB
    assert "kept in reserve" in own.cli("status").stdout
    assert f"{RESERVE / 1024:.1f} of them kept in reserve" in own.cli("doctor").stdout

    own.leave(-1)
    assert "FULL" in own.cli("status").stdout
    assert own.api.post(f"/sandboxes/{box.id}/timeout", json={"timeout": 900}).status_code == 204, (
        "the reserve is for this"
    )
    build = f"/templates/{made['templateID']}/builds/{made['buildID']}"
    step = {"type": "RUN", "args": ["true"], "force": True}
    started = own.api.post(f"/v2{build}", json={"fromTemplate": "base", "steps": [step], "force": False})
    assert started.status_code == 202, started.text
    wait_for(lambda: own.api.get(f"{build}/status").json()["status"] == "error")
    assert "kept in reserve" in own.api.get(f"{build}/status").json()["reason"]["message"]

    own.filler.unlink()
    assert own.api.post(f"/sandboxes/{box.id}/pause", json={}).status_code == 204
    own.leave(4)
    assert refused(own.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 600}))
    own.filler.unlink()
    assert own.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 600}).status_code == 201
    assert box.sh("pgrep -c sleep") == "1"
    box.kill()


def test_pauses_at_once_do_not_pass_the_reserve(own: RoomyDisk) -> None:
    """All of them look at the same room: what the first ones will write is taken."""
    boxes = [FrontBox.create(own, timeout=600) for _ in range(5)]
    own.leave(120)
    with ThreadPoolExecutor(len(boxes)) as pool:
        answers = list(pool.map(lambda box: own.api.post(f"/sandboxes/{box.id}/pause", json={}), boxes))
    assert own.free() >= RESERVE * MIB
    paused = [answer.status_code == 204 for answer in answers]
    assert any(paused)
    assert not all(paused)
    for box, answer in zip(boxes, answers, strict=True):
        if answer.status_code != 204:
            assert refused(answer), answer.text
            assert box.alive()
    own.filler.unlink()
    for box in boxes:
        box.kill()


def test_a_build_that_writes_too_much_is_ended(own: RoomyDisk) -> None:
    """How much a step writes is known when it has written it."""
    made, _ = upload_link(own)
    build = f"/templates/{made['templateID']}/builds/{made['buildID']}"
    step = {"type": "RUN", "args": ["head -c 300000000 /dev/urandom > /big", "root"], "force": True}
    own.leave(100)
    started = own.api.post(f"/v2{build}", json={"fromTemplate": "base", "steps": [step], "force": False})
    assert started.status_code == 202, started.text
    wait_for(lambda: own.api.get(f"{build}/status").json()["status"] != "building", seconds=60)
    status = own.api.get(f"{build}/status").json()
    assert (status["status"], "kept in reserve" in status["reason"]["message"]) == ("error", True), status
    wait_for(lambda: own.free() >= RESERVE * MIB)
    own.filler.unlink()
