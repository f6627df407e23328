"""The memory of one sandbox's control group: what it needs, where its limits are, and a descriptor that says when to look.

Page cache makes the kernel's own figures useless as a warning: it fills whatever room there is. What counts here is the rest, which no
reclaim brings back: a sandbox has no swap.

v1 tells by an eventfd when usage, page cache included, passes a threshold; above it only looking tells how much of that is needed.
v2 has `memory.high`: above it the kernel reclaims, then slows down whoever allocates, and counts that in `memory.events`.
"""

from __future__ import annotations

import contextlib
import os
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandpit.node.host.cgroups import Cgroup, is_unified


@dataclass(frozen=True, slots=True)
class Held:
    """What a group holds at one moment, in bytes."""

    usage: int
    """All that is charged to it."""
    needed: int
    """Without page cache, and without what is known to be kernel memory that can be reclaimed."""
    kernel: int
    """The part of `needed` that is the kernel's, some of which may be reclaimable: v1 does not say how much."""


class Alarm(Protocol):
    """A descriptor that becomes readable when the group's memory is worth a look."""

    def fileno(self) -> int:
        """For an event loop."""

    def clear(self) -> None:
        """Wait for the next time."""

    def close(self) -> None:
        """Give the descriptor back."""


class MemoryGroup:
    """The memory controller's side of a sandbox's group."""

    def __init__(self, group: Cgroup) -> None:
        """Name the group; nothing is touched."""
        self._directory = group.memory_directory()

    def look(self) -> Held:
        """Measure now; some 0.1 ms. Raises: OSError when the group is gone."""
        if is_unified():
            return self._look_v2()
        stat = self._stat()
        usage, kernel = (self._number(f"memory.{name}usage_in_bytes") for name in ("", "kmem."))
        return Held(usage, usage - stat["total_inactive_file"] - stat["total_active_file"], kernel)

    def _look_v2(self) -> Held:
        stat, usage = self._stat(), self._number("memory.current")
        reclaimable = stat["inactive_file"] + stat["active_file"] + stat.get("slab_reclaimable", 0)
        return Held(usage, usage - reclaimable, 0)

    def set_limits(self, threshold: int, limit: int) -> None:
        """Have the kernel let nothing beyond `limit` happen, in bytes, and begin to reclaim at `threshold` if it can. Raises: OSError."""
        if is_unified():
            self._write("memory.max", limit)
            self._write("memory.high", threshold)
        else:
            self._write("memory.limit_in_bytes", limit)

    def reclaim(self) -> None:
        """Have the kernel give back what it can, page cache and its own memory. Blocks for as long as the disk takes. Raises: OSError."""
        if not is_unified():
            # A limit that is lowered for a moment would do, and might have the kernel kill somebody in that moment.
            self._write("memory.force_empty", 0)
            return
        with contextlib.suppress(BlockingIOError):  # EAGAIN: there was less than all
            self._write("memory.reclaim", self._number("memory.current"))

    def alarm(self, threshold: int) -> Alarm:
        """Told when usage passes `threshold`. Raises: OSError."""
        return _Events(self._directory) if is_unified() else _Threshold(self._directory, threshold)

    def _stat(self) -> dict[str, int]:
        pairs = (line.split() for line in (self._directory / "memory.stat").read_text().splitlines())
        return {name: int(value) for name, value in pairs}

    def _number(self, name: str) -> int:
        return int((self._directory / name).read_text())

    def _write(self, name: str, value: int) -> None:
        (self._directory / name).write_text(str(value))


class _Threshold:
    """v1: an eventfd registered with the controller (cgroup-v1/memory, 9. Memory thresholds). It goes with its descriptor."""

    def __init__(self, directory: Path, threshold: int) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            usage = os.open(directory / "memory.usage_in_bytes", os.O_RDONLY | os.O_CLOEXEC)
            try:
                (directory / "cgroup.event_control").write_text(f"{self._event} {usage} {threshold}")
            finally:
                os.close(usage)
        except BaseException:
            os.close(self._event)
            raise

    def fileno(self) -> int:
        return self._event

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def close(self) -> None:
        os.close(self._event)


class _Events:
    """v2: `memory.events` has POLLPRI after a change, until it is read (cgroup-v2). An epoll instance makes that readable."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._poll = select.epoll()
            self._poll.register(self._file, select.EPOLLPRI)
        except BaseException:
            os.close(self._file)
            raise

    def fileno(self) -> int:
        return self._poll.fileno()

    def clear(self) -> None:
        os.pread(self._file, 4096, 0)
        self._poll.poll(0)

    def close(self) -> None:
        self._poll.close()
        os.close(self._file)
