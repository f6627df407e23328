"""How busy sandboxes keep their processors: what each uses, and what a new one would get."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from sandpit.node.cgroups import Cgroup, cpu_file, cpu_seconds

LOOK_SECONDS = 1.0
_SMOOTHING = 0.5
"""Weight of the last look against all before it."""
_HUNGRY = 0.02
"""Processors from which on a sandbox may be one that wants more than it gets."""
_ASKED = 4
_ASKED_THREADS = 256
"""Of those that use the most, how many are asked whether they had to wait, and how many threads of each."""


def newcomers_share(used: Iterable[float], capacity: float, newcomers: int = 1) -> float:
    """What each of `newcomers` that want all they can get would get of `capacity` beside those that use `used` (all in processors).

    The scheduler is fair: who uses little keeps it, those who use the most give way until they have as much as a newcomer.
    """
    ascending = sorted(used)
    room, hungry = capacity, len(ascending) + newcomers
    for one in ascending:
        if one >= room / hungry:
            break
        room -= one
        hungry -= 1
    return max(0.0, room / hungry)


class Load:
    """Measures the sandboxes of one node, by their groups: one file each and look, kept open."""

    def __init__(self, group: Cgroup, cpus: float) -> None:
        """`group` is that of all sandboxes, which have `cpus` processors together."""
        self._group = group
        self._cpus = cpus
        self._files: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._looked = time.monotonic()
        self._delays: dict[int, tuple[int, int]] = {}
        """By thread: nanoseconds that it ran, and that it waited for a processor (proc(5), schedstat)."""
        self.last: dict[str, float] = {}
        """Processors that each group used between the last two looks, by container id."""
        self.used: dict[str, float] = {}
        """The same over the last few looks."""
        self.capacity = cpus
        """Processors that sandboxes can get at present."""

    def look(self) -> None:
        """Measure. Blocks for some microseconds for each sandbox: call it in a thread, never twice at once."""
        names = self._group.children()
        for gone in self._files.keys() - names:
            os.close(self._files.pop(gone))
            self._seconds.pop(gone, None)
        now = time.monotonic()
        passed, self._looked = max(now - self._looked, 1e-3), now
        last = {name: share for name in names if (share := self._share(name, passed)) is not None}
        before = self.used
        self.used = {
            name: share if name not in before else before[name] + _SMOOTHING * (share - before[name])
            for name, share in last.items()
        }
        self.last = last
        # Where those that want more wait longer than they run, other work on the machine has the rest.
        self.capacity = min(self._cpus, sum(last.values())) if self._starved() else self._cpus

    def share(self, starting: int = 0) -> float:
        """What one more sandbox would get beside all that are there and `starting` others, in processors."""
        return newcomers_share(self.used.values(), self.capacity, starting + 1)

    def computing(self) -> int:
        """How many sandboxes use at least half of what a newcomer would get: those that it would share with, unevenly as that may be."""
        share = self.share()
        return sum(used >= 0.5 * share for used in self.used.values())

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _share(self, name: str, passed: float) -> float | None:
        """Processors used by one group since the last look; None when it is gone, or new."""
        with contextlib.suppress(OSError):
            if name not in self._files:
                self._files[name] = os.open(cpu_file(self._group, name), os.O_RDONLY | os.O_CLOEXEC)
            seconds = cpu_seconds(os.pread(self._files[name], 64, 0))
            before = self._seconds.get(name)
            self._seconds[name] = seconds
            return None if before is None else max(0.0, seconds - before) / passed
        return None

    def _starved(self) -> bool:
        """Whether the sandboxes that use the most waited for a processor more than they had one."""
        hungry = sorted(self.last, key=lambda name: -self.last[name])[:_ASKED]
        threads = [
            thread
            for name in hungry
            if self.last[name] > _HUNGRY
            for thread in self._group.threads_of(name)[:_ASKED_THREADS]
        ]
        before, self._delays = self._delays, {thread: delays for thread in threads if (delays := _delays(thread))}
        known = [(*before[thread], *delays) for thread, delays in self._delays.items() if thread in before]
        ran = sum(after - earlier for earlier, _, after, _ in known)
        waited = sum(after - earlier for _, earlier, _, after in known)
        return waited > ran


def _delays(thread: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError, ValueError):
        ran, waited, _ = Path(f"/proc/{thread}/schedstat").read_text().split()
        return int(ran), int(waited)
    return None
