"""A hundred creates at once, against restoring as many by hand, as many at a time as the node does."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx

from benchmarks.bare import Bare, Prepared
from benchmarks.rig import WAIT_SECONDS, Rig, rig
from benchmarks.series import Measurement, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "burst"


def measure(scale: Scale) -> Iterator[Measurement]:
    count = scale.runs(100, 6)
    with rig(pool=2) as made:
        bare = Bare(made)
        values, references, failed = [], [], 0
        for _ in range(scale.runs(2, 1)):
            made.settle()
            seconds, lost = asyncio.run(_burst(made, count))
            failed += lost
            values.append(count / seconds)
            made.settle()
            references.append(count / _by_hand(bare, count))
    targets = (Target("ratio", 0.8, at_least=True),)
    yield Measurement(f"{count} creates at once", "per s", values, "runsc restore loop", references, targets)
    yield Measurement("creates that failed", "", [float(failed)], targets=(Target("max", 0),))


async def _burst(made: Rig, count: int) -> tuple[float, int]:
    """Seconds until the last of `count` creates was answered, and how many failed. The sandboxes are ended."""
    limits = httpx.Limits(max_connections=count)
    headers = {"X-API-KEY": made.live.key}
    async with httpx.AsyncClient(
        base_url=made.live.api_url, headers=headers, timeout=2 * WAIT_SECONDS, limits=limits, trust_env=False
    ) as api:
        body = {"templateID": "base", "timeout": 3600}
        began = time.perf_counter()
        answers = await asyncio.gather(*(api.post("/sandboxes", json=body) for _ in range(count)))
        seconds = time.perf_counter() - began
        created = [answer.json()["sandboxID"] for answer in answers if answer.status_code == 201]
        for sandbox_id in created:
            (await api.delete(f"/sandboxes/{sandbox_id}")).raise_for_status()
    return seconds, count - len(created)


def _by_hand(bare: Bare, count: int) -> float:
    """Seconds for `count` restores."""
    with ExitStack() as stack:
        prepared = [stack.enter_context(bare.prepared()) for _ in range(count)]
        began = time.perf_counter()
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            list(pool.map(Prepared.restore, prepared))
        return time.perf_counter() - began
