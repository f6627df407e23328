"""A machine that is full: it says so, and its server stays in command of it. Here the machine is the share that a server gives its sandboxes."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.live import Live
from tests.machines import RUNTIMES, wait_for

from sandpit.node.cgroups import Cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMISED = 2.0
"""Seconds for status and kill (docs/operations.md)."""
_SPINNING = 24
_SPIN = "for i in 1 2; do (while :; do :; done) & done; sleep 600"


@pytest.fixture(scope="module", params=RUNTIMES)
def small(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """A server whose sandboxes have one processor together."""
    settings = {"SANDPIT_MACHINE__SANDBOX_CPUS": "1", "SANDPIT_MACHINE__FULL_SECONDS": "1.5"}
    live = Live({"SANDPIT_RUNTIME": str(request.param), "SANDPIT_POOL__SIZE": "0", **settings})
    leaks.kept.add(live.name)
    live.start()
    yield live
    if live.process.poll() is None:
        live.stop()
    live.remove()


def spin(box: FrontBox) -> None:
    """Have a sandbox compute for good."""
    with box.start(_SPIN) as events:
        next(events)


def refused(live: Live) -> httpx.Response | None:
    """The refusal of a create; None when it succeeded (and spins, too)."""
    answer = live.api.post("/v2/sandboxes", json={"templateID": "base"})
    if answer.status_code == 201:
        made = answer.json()
        spin(FrontBox(live, made["sandboxID"], made["envdAccessToken"]))
        return None
    return answer


def status(live: Live) -> tuple[float, dict[str, object]]:
    """How long the server takes to describe itself, and what it says."""
    began = time.monotonic()
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(live.run_dir / "control.sock")), base_url="http://sandpit"
    ) as client:
        answer = client.get("/status", timeout=30).raise_for_status()
    return time.monotonic() - began, answer.json()


@pytest.mark.timeout(180)
def test_a_full_machine_refuses_and_stays_in_command(small: Live) -> None:
    calm = FrontBox.create(small)
    spinning = [FrontBox.create(small) for _ in range(4)]
    for box in spinning:
        spin(box)
    refusal = None
    for _ in range(_SPINNING):
        if (refusal := refused(small)) is not None:
            break
    assert refusal is not None
    assert refusal.status_code == 503, refusal.text
    assert int(refusal.headers["Retry-After"]) >= 1
    assert "compute and share 1.00 processors" in refusal.json()["message"]
    began = time.monotonic()
    assert refused(small) is not None, "nothing has changed"
    assert time.monotonic() - began < 10, "who asks a machine that has been full for a while is not kept waiting"
    seconds, said = status(small)
    assert seconds < PROMISED
    assert "compute" in str(said["full"])
    assert calm.alive(), "a calm tenant's sandbox works beside them"
    for box in spinning:
        began = time.monotonic()
        box.kill()
        assert time.monotonic() - began < PROMISED
    others = small.api.get("/v2/sandboxes", params={"limit": 100}).json()
    with ThreadPoolExecutor(8) as pool:
        killed = pool.map(
            lambda one: small.api.delete(f"/sandboxes/{one['sandboxID']}").status_code,
            [one for one in others if one["sandboxID"] != calm.id],
        )
        assert set(killed) == {204}
    wait_for(lambda: refused(small) is None)
    assert status(small)[1]["full"] is None
