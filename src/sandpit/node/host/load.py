"""How busy sandboxes keep their processors: what each uses, and what a new one would get."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

from sandpit.node.host.capacity import Capacity, count, machine
from sandpit.node.host.cgroups import Cgroup, cpu_file, cpu_seconds

LOOK_SECONDS = 1.0
_SMOOTHING = 0.5
"""Weight of the last look against all before it."""
_COMPUTING = 0.5
"""Part of an equal share from which on a sandbox computes, while it may get less than it wants: the kernel shares unevenly."""


def newcomers_share(used: Iterable[float], capacity: float, newcomers: int = 1, computing: float = 1.0) -> float:
    """What each of `newcomers` that want all they can get would get of `capacity` beside those that use `used` (all in processors).

    The scheduler is fair: who uses little keeps it, those who use the most give way until they have as much as a newcomer. Who uses
    `computing` times an equal share or more is taken to want as much as a newcomer, however little that is now.
    """
    ascending = sorted(used)
    room, hungry = capacity, len(ascending) + newcomers
    for one in ascending:
        if one >= computing * room / hungry:
            break
        room -= one
        hungry -= 1
    return max(0.0, room / hungry)


class Load:
    """Measures the sandboxes of one node, by their groups: one file each and look, kept open."""

    def __init__(self, group: Cgroup, cpus: float) -> None:
        """`group` is that of all sandboxes, which have `cpus` processors together."""
        self._group = group
        self._files: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._looked = time.monotonic()
        self.last: dict[str, float] = {}
        """Processors that each group used between the last two looks, by container id."""
        self.used: dict[str, float] = {}
        """The same over the last few looks."""
        self.room = Capacity(cpus, machine())
        """What sandboxes can get together at present."""

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
        # One that has just started did so with what it used at first, and need not go on like that.
        self.used = {
            name: (earlier := before.get(name, 0.0)) + _SMOOTHING * (share - earlier) for name, share in last.items()
        }
        self.last = last
        with contextlib.suppress(FileNotFoundError):  # there is no group yet
            self.room.measure(count(self._group), passed)

    def share(self, starting: int = 0) -> float:
        """What one more sandbox would get beside all that are there and `starting` others, in processors."""
        computing = _COMPUTING if self.room.scarce else 1.0
        return newcomers_share(self.used.values(), self.room.processors, starting + 1, computing)

    def computing(self) -> int:
        """How many sandboxes use at least half of what a newcomer would get: those that it would share with, unevenly as that may be."""
        share = self.share()
        return sum(used >= _COMPUTING * share for used in self.used.values())

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
