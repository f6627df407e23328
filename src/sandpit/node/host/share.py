"""What all sandboxes together may use: the group above theirs keeps processors, memory and process ids for the server.

The group has a quota below what the machine has, so that some processor time is always left, and half the usual weight, so that the server
goes first while both want to run. Memory has a limit below what the machine has: sandboxes run out of memory among themselves, and the
kernel never looks for a victim among the host's processes on their account.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.node.config import NodeConfig
from sandpit.node.host.cgroups import Cgroup, LimitValues, is_unified

log = logging.getLogger(__name__)

_LEAST_RESERVE = 0.25
_RESERVED_PART = 0.05
"""Of the machine's processors, what is kept unless the operator says otherwise: the larger of a quarter of one and a twentieth of all."""
_LEAST_CPUS = 0.25
_LEAST_MEMORY_MB = 128
_LEAST_PIDS = 1024


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """Of all sandboxes together: processors, MiB of memory, tasks."""

    cpus: float
    memory_mb: int
    pids: int


def planned(config: NodeConfig) -> ShareLimits:
    """What the settings come to on this machine."""
    processors = len(os.sched_getaffinity(0))
    reserve = config.reserved_cpus
    if reserve is None:
        reserve = max(_LEAST_RESERVE, _RESERVED_PART * processors)
    cpus = max(_LEAST_CPUS, processors - reserve)
    memory = max(_LEAST_MEMORY_MB, _meminfo_mb("MemTotal") - config.memory_reserve_mb)
    cpus = round(min(cpus, config.sandbox_cpus or cpus), 2)  # whole microseconds in any period
    return ShareLimits(cpus, min(memory, config.sandbox_memory_mb or memory), _planned_pids())


def _planned_pids() -> int:
    """Nine tenths of the machine's: bombs in many sandboxes at once must leave the host some."""
    kernel = Path("/proc/sys/kernel")
    most = min(int((kernel / name).read_text()) for name in ("pid_max", "threads-max"))
    return max(_LEAST_PIDS, most * 9 // 10)


class Share:
    """The group of all sandboxes of one node."""

    def __init__(self, config: NodeConfig) -> None:
        """Plan the limits; nothing is touched before `prepare`."""
        self._config = config
        self.group = Cgroup(f"/{config.name}")
        self.limits = planned(config)

    def prepare(self) -> None:
        """Make the group, set its limits and read them back. Raises: NodeError: sandboxes must not start without them."""
        try:
            self.group.cap_children(self.limits.cpus)
            self.group.create(self._values(), share=True)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise NodeError(f"the limits of all sandboxes together cannot be set: {error}") from error
            # Sandboxes of an earlier server hold more than there may be now: they go on, and no other starts until there is room.
            log.error("sandboxes hold more than their limit of %d MiB, which is not in force", self.limits.memory_mb)
        if (wrong := self.differences()) and not self._over_limit():
            raise NodeError(f"the limits of all sandboxes together are not in force: {wrong}")
        protect_server(self._config.memory_reserve_mb)

    def differences(self) -> str:
        """What of the limits is not in force, as text; empty when all are. Raises: OSError."""
        return self.group.differences(self._values())

    def _values(self) -> LimitValues:
        return LimitValues(self.limits.cpus, self.limits.memory_mb, self.limits.pids)

    def _over_limit(self) -> bool:
        return self.group.memory_in_use() > self.limits.memory_mb << 20

    def available_mb(self) -> int:
        """Memory in MiB that sandboxes can still have: below their limit, and on the machine beyond the reserve. Raises: OSError."""
        below_limit = self.limits.memory_mb - (self.group.memory_in_use() >> 20)
        return min(below_limit, _meminfo_mb("MemAvailable") - self._config.memory_reserve_mb)

    def remove(self) -> None:
        """Remove the group, in which there is none left."""
        try:
            self.group.remove()
        except OSError as error:
            log.warning("the node's control group stays: %s", error)


def protect_server(memory_mb: int) -> None:
    """On v2, keep memory in the server's own group from being reclaimed for others' sake, as far as the groups above it pass that on.

    On v1 the limit of the sandboxes' group alone protects it.
    """
    if not is_unified():
        return
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        if own:
            (Path("/sys/fs/cgroup") / own / "memory.low").write_text(str(memory_mb << 20))


def _meminfo_mb(name: str) -> int:
    """A line of /proc/meminfo (proc(5)), in MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) >> 10
    raise RuntimeError(f"/proc/meminfo has no {name}: this kernel is too old")
