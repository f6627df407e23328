"""A machine that is full says so, and its server stays in command of it. The machine is the share that a server gives its sandboxes."""

from __future__ import annotations

import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.live import Live
from tests.machines import RUNTIMES, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMISED = 2.0
"""Seconds for status and kill (docs/operations.md)."""
_SPINNING = 10
_SPIN = "for i in 1 2; do (while :; do :; done) & done; sleep 600"
_STARVE = r"""
#define _GNU_SOURCE
#include <sched.h>
#include <time.h>
#include <unistd.h>
static long long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }
int main(void) {
  cpu_set_t first;
  CPU_ZERO(&first); CPU_SET(0, &first);
  sched_setaffinity(0, sizeof first, &first);
  long long wake = now() + 1000000000LL;
  for (int i = 1; i < 120; i++) if (!fork()) break;
  for (;; wake += 250000000LL) {
    struct timespec at = { wake / 1000000000LL, wake % 1000000000LL };
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0);
    for (long long began = now(); now() - began < 100000;);
  }
}
"""
"""120 processes that wake at the same instant on one processor, and wait for each other: some twentieth of it is used."""
_SETTINGS = {
    "SANDPIT_POOL__SIZE": "0",
    "SANDPIT_MACHINE__SANDBOX_CPUS": "0.25",
    "SANDPIT_MACHINE__SANDBOX_MEMORY_MB": "3000",
    "SANDPIT_MACHINE__LEAST_CPU": "0.04",
    "SANDPIT_MACHINE__FULL_SECONDS": "1",
}


@pytest.fixture(scope="module", params=RUNTIMES)
def small(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """A server whose sandboxes have a quarter of a processor together, and refuse a new one less than a 25th.

    So little is left for them whatever else runs on the machine.
    """
    live = Live({"SANDPIT_RUNTIME": str(request.param), **_SETTINGS})
    leaks.kept.add(live.name)
    live.start()
    yield live
    if live.process.poll() is None:
        live.stop()
    live.remove()


@pytest.fixture(autouse=True)
def emptied(small: Live) -> Iterator[None]:
    """Nothing of a test that failed keeps the next one from its room."""
    yield
    if small.process.poll() is None:
        end_all(small)


def made(live: Live) -> FrontBox:
    """A sandbox, as soon as those that have just started leave room for it."""
    boxes: list[FrontBox] = []

    def make() -> bool:
        answer = live.api.post("/v2/sandboxes", json={"templateID": "base"})
        if answer.status_code == 201:
            boxes.append(FrontBox(live, answer.json()["sandboxID"], answer.json()["envdAccessToken"]))
        return bool(boxes)

    wait_for(make, 60)
    return boxes[0]


def spin(box: FrontBox) -> None:
    """Have a sandbox compute for good."""
    with box.start(_SPIN) as events:
        next(events)


def created(live: Live) -> httpx.Response:
    """The answer to a create; what was created spins, too."""
    answer = live.api.post("/v2/sandboxes", json={"templateID": "base"})
    if answer.status_code == 201:
        made = answer.json()
        spin(FrontBox(live, made["sandboxID"], made["envdAccessToken"]))
    return answer


def status(live: Live) -> tuple[float, dict[str, object]]:
    """How long the server takes to describe itself, and what it says."""
    began = time.monotonic()
    transport = httpx.HTTPTransport(uds=str(live.run_dir / "control.sock"))
    with httpx.Client(transport=transport, base_url="http://sandpit") as client:
        answer = client.get("/status", timeout=30).raise_for_status()
    return time.monotonic() - began, answer.json()


def end_all(live: Live) -> None:
    """Kill every sandbox."""
    for one in live.api.get("/v2/sandboxes", params={"limit": 100}).json():
        assert live.api.delete(f"/sandboxes/{one['sandboxID']}").status_code in (204, 404)


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.mark.timeout(120)
def test_threads_that_wait_for_each_other_do_not_make_a_machine_full(small: Live) -> None:
    box = made(small)
    box.sh(f"printf %s {shlex.quote(_STARVE)} | gcc -O2 -x c -o /tmp/starve -")
    with box.start("echo; exec /tmp/starve") as events:
        next(events)
    time.sleep(1)
    for _ in range(3):
        time.sleep(1.1)  # another look
        assert status(small)[1]["full"] is None
        answer = small.api.post("/v2/sandboxes", json={"templateID": "base"})
        assert answer.status_code == 201, answer.text


@pytest.mark.timeout(180)
def test_a_full_machine_refuses_and_stays_in_command(small: Live) -> None:
    with ThreadPoolExecutor(8) as pool:
        calm, *spinning = pool.map(lambda _: made(small), range(_SPINNING + 1))
        list(pool.map(spin, spinning))
    wait_for(lambda: status(small)[1]["full"])
    wait_for(lambda: created(small).status_code == 503, 60)
    refusal = small.api.post("/v2/sandboxes", json={"templateID": "base"})
    assert refusal.status_code == 503, refusal.text
    assert refusal.elapsed.total_seconds() < 10, "who asks a machine that has been full for a while is not kept waiting"
    assert int(refusal.headers["Retry-After"]) >= 1
    assert "sandboxes of this node compute and share" in refusal.json()["message"]
    seconds, said = status(small)
    assert seconds < PROMISED
    assert "compute" in str(said["full"])
    assert calm.alive(), "a calm tenant's sandbox works beside them"
    for box in spinning[:3]:
        assert timed(box.kill) < PROMISED
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(FrontBox.kill, spinning))
    # What was created above may still spin, and there is room all the same.
    wait_for(lambda: status(small)[1]["full"] is None)
    made(small)


@pytest.mark.timeout(120)
def test_all_sandboxes_end_at_once(small: Live) -> None:
    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(lambda _: made(small), range(8)))
        list(pool.map(spin, boxes))
    began = time.monotonic()
    done = small.cli("down", "--sandboxes")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    small.ended()
