"""The server that is measured: a process of its own, as in the tests, with the official clients pointed at it."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
from tests import leaks
from tests.live import Live
from tests.machines import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WAIT_SECONDS = 120.0
CALM_SECONDS = 0.3
"""For what is tidied up behind an answer: the kernel takes its time to remove a network namespace."""


class LeakError(Exception):
    """Something was left behind."""


class Rig:
    """A running server, with what measurements need to know about it."""

    def __init__(self, live: Live, pool: int) -> None:
        self.live = live
        self.pool = pool
        self.api = httpx.Client(
            base_url=live.api_url, headers={"X-API-KEY": live.key}, trust_env=False, timeout=WAIT_SECONDS
        )
        self.control = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(live.run_dir / "control.sock")), base_url="http://sandpit"
        )

    def close(self) -> None:
        self.api.close()
        self.control.close()

    def settle(self) -> None:
        """Return when every pool is full and the machine had a moment to calm down."""
        deadline = time.monotonic() + WAIT_SECONDS
        while any(ready < self.pool for ready in self._ready().values()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the warm pool is not full: {self._ready()}\n{self.live.words()}")
            time.sleep(0.02)
        time.sleep(CALM_SECONDS)

    def _ready(self) -> dict[str, int]:
        found: dict[str, int] = self.control.get("/status").json()["sandboxes"]["ready"]
        return found

    def create(self, template: str = "base") -> str:
        """A new sandbox's id, over the plain API."""
        answer = self.api.post("/sandboxes", json={"templateID": template, "timeout": 3600})
        answer.raise_for_status()
        return str(answer.json()["sandboxID"])

    def kill(self, sandbox_id: str) -> None:
        self.api.delete(f"/sandboxes/{sandbox_id}").raise_for_status()

    def record(self, sandbox_id: str) -> dict[str, Any]:
        """What the node keeps on disk about a sandbox."""
        for path in (self.live.data_dir / "sandboxes").glob("*/record.json"):
            record: dict[str, Any] = json.loads(path.read_text())
            if record["sandbox_id"] == sandbox_id:
                return record
        raise LookupError(f"the node keeps no record of {sandbox_id}")


@contextmanager
def rig(pool: int, **settings: str) -> Iterator[Rig]:
    """A server with `pool` waiting sandboxes per template. Raises at the end: LeakError."""
    with nothing_left(), _serving(pool, settings) as made:
        yield made


@contextmanager
def nothing_left() -> Iterator[None]:
    """For a block that starts servers and ends them. Raises at its end: LeakError."""
    before = leaks.holdings(nodes=True, own=False)
    yield
    left = leaks.new_since(before, nodes=True, own=False)
    with suppress(OSError):  # another server's directories are there
        ROOT.rmdir()
    if left:
        raise LeakError("left behind:\n  " + "\n  ".join(left))


@contextmanager
def _serving(pool: int, settings: Mapping[str, str]) -> Iterator[Rig]:
    live = Live({"SANDPIT_POOL__SIZE": str(pool), "SANDPIT_POOL__MAX_SIZE": str(pool), **settings})
    live.start()
    kept = {name: os.environ.get(name) for name in live.clients}
    os.environ |= live.clients
    made = Rig(live, pool)
    try:
        yield made
    finally:
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        made.close()
        if live.process.poll() is None:
            live.stop()
        else:
            live.ended()
        live.remove()
