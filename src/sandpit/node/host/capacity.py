"""How many processors the sandboxes of one node can have together, beside what else runs on the machine.

Nothing here follows from how long threads of sandboxes wait: a guest makes its own threads wait for each other at no cost. What the machine
leaves follows from the time that its processors were idle and from what the group of all sandboxes used, and it is never taken to be less
than what the group's weight gives it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sandpit.node.host.cgroups import SHARE_PART, Cgroup

_SMOOTHING = 0.5
"""Weight of the last look against all before it."""
_IDLE = 0.1
"""Processors of the machine that are idle, below which those who compute may want more than they get."""
_THROTTLED = 0.1
"""Part of the time in which the quota was used up, from which on the same holds. That takes a guest as large a part of the quota."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Counters:
    """Seconds since some moment: of the machine's processors, idle ones; of the group, used ones, and periods with the quota used up."""

    idle: float
    used: float
    throttled: float


class Capacity:
    """What follows from the counters between two looks, smoothed over the last few."""

    def __init__(self, limit: float, machine: float) -> None:
        """The sandboxes' quota, and what the machine has, in processors."""
        self._limit = limit
        self._guaranteed = min(limit, machine * SHARE_PART)
        self._before: Counters | None = None
        self._left = machine
        self._idle = machine
        self._throttled = 0.0

    def measure(self, now: Counters, passed: float) -> None:
        """Take what was counted `passed` seconds after the last time."""
        before, self._before = self._before, now
        if before is None:
            return
        # Idle time is counted in hundredths, and some of it can be taken back (proc_stat(5)).
        idle, used = max(0.0, now.idle - before.idle) / passed, max(0.0, now.used - before.used) / passed
        self._left += _SMOOTHING * (idle + used - self._left)
        self._idle += _SMOOTHING * (idle - self._idle)
        self._throttled += _SMOOTHING * ((now.throttled - before.throttled) / passed - self._throttled)

    @property
    def processors(self) -> float:
        """All but what other work takes, at least what the weight gives."""
        return min(self._limit, max(self._left, self._guaranteed))

    @property
    def scarce(self) -> bool:
        """Whether sandboxes may get less than they want: there is no idle processor, or their quota was used up."""
        return self._idle < _IDLE or self._throttled > _THROTTLED


def count(group: Cgroup) -> Counters:
    """Read the counters of this machine and of the group of all sandboxes. Raises: OSError."""
    return Counters(_idle_seconds(), group.cpu_seconds(), group.throttled_seconds())


def machine() -> int:
    """Processors on which the server may run, and its sandboxes with it."""
    return len(os.sched_getaffinity(0))


def _idle_seconds() -> float:
    """Of the processors on which sandboxes may run.

    The kernel adds idle time up exactly; the other columns of /proc/stat are samples, which a guest can arrange to be taken while it runs.
    """
    names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu"))
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in names) / _TICKS
