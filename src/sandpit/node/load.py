"""How busy sandboxes keep their processors: what each uses, and what a new one would get."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from sandpit.node.cgroups import Cgroup, cpu_file, cpu_seconds

LOOK_SECONDS = 1.0
_SMOOTHING = 0.5
"""Weight of the last look against all before it."""
_CONTENDED = 0.9
"""Part of the time in which some sandbox waited for a processor, from which on what they use counts as all that they can get: other work
on the machine takes the rest. Only v2 groups tell (`some` of cpu.pressure, proc(5)); on v1, slow starts do (see Admission)."""


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
        self._pressure: tuple[float, float] | None = None
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
        total = sum(last.values())
        self.capacity = min(self._cpus, total) if self._waited(now) > _CONTENDED else self._cpus

    def share(self, starting: int = 0) -> float:
        """What one more sandbox would get beside all that are there and `starting` others, in processors."""
        return newcomers_share(self.used.values(), self.capacity, starting + 1)

    def computing(self) -> int:
        """How many sandboxes use as much as a newcomer would get, or more."""
        share = self.share()
        return sum(used >= 0.9 * share for used in self.used.values())

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

    def _waited(self, now: float) -> float:
        """Part of the time since the last look in which some sandbox waited for a processor; 0 where the kernel does not tell."""
        total = self._group.waiting_seconds()
        before, self._pressure = self._pressure, None if total is None else (now, total)
        if total is None or before is None or now <= before[0]:
            return 0.0
        return (total - before[1]) / (now - before[0])
