"""Create and kill, over and over; at the end nothing may be left, and the server must not have grown."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil

from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "soak"
_AT_ONCE = 2
_WARM_UP = 10


def measure(cycles: int) -> Iterator[Measurement]:
    """Raises: LeakError."""
    clock = Clock()
    with rig(pool=2) as made:
        server = psutil.Process(made.live.process.pid)

        def cycle(_: int) -> None:
            created: list[str] = []
            clock.time(lambda: created.append(made.create()))
            made.kill(created[0])

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(cycle, range(_WARM_UP)))
            made.settle()
            memory, descriptors = server.memory_info().rss, server.num_fds()
            list(pool.map(cycle, range(cycles)))
        made.settle()
        grown = (server.memory_info().rss - memory) / 1e6
        more = float(server.num_fds() - descriptors)
    yield Measurement("create, over and over", "ms", clock.values[_WARM_UP:], note="nothing was left behind")
    yield Measurement(f"server memory after {cycles} cycles", "MB more", [grown], targets=(Target("max", 32),))
    yield Measurement(f"server descriptors after {cycles} cycles", "more", [more], targets=(Target("max", 8),))
