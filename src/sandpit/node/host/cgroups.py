"""Control groups of sandboxes, on the v2 hierarchy and on v1 (hybrid) machines.

The runtime makes a sandbox's groups and sets the limits of its OCI configuration; this module finds them again to measure, to kill
everything in them, and to remove them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PERIOD, _SHARE_PERIOD = 100_000, 20_000
"""Microseconds in which a quota is counted: a sandbox's, and that of all of them together."""
_SHARE_WEIGHT = ("50", "512")
"""Of the group of all sandboxes, on v2 (100 is usual) and v1 (1024, which is also that of one process outside of all groups)."""
SHARE_PART = 1 / 3
"""Of the machine, what that weight gives the group while one other of usual weight wants all it can get, too."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group has used: memory and page cache in bytes, CPU time in seconds."""

    memory: int
    cache: int
    cpu_seconds: float
    out_of_memory_kills: int
    refused_forks: int


def is_unified() -> bool:
    """Whether this machine has the v2 hierarchy at its root."""
    return (ROOT / "cgroup.controllers").exists()


def version() -> str:
    """`v2`, or `v1` for the hybrid and legacy layouts."""
    return "v2" if is_unified() else "v1"


def _hierarchies() -> list[Path]:
    """The mount points that may hold a sandbox's group."""
    if is_unified():
        return [ROOT]
    return [
        path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()
    ]


@dataclass(frozen=True, slots=True)
class LimitValues:
    """What a group may use: processors, MiB of memory, tasks."""

    cpus: float
    memory_mb: int
    pids: int


class Cgroup:
    """The groups of one sandbox, by their path below the hierarchy's root, for instance `/sandpit/c1`."""

    def __init__(self, path: str) -> None:
        """Name the groups; nothing is touched."""
        self.path = path

    def _in(self, controller: str) -> Path:
        return (ROOT if is_unified() else ROOT / controller) / self.path.lstrip("/")

    def directories(self) -> list[Path]:
        """The group's directory in each hierarchy that is used."""
        return (
            [self._in("memory")]
            if is_unified()
            else [self._in(name) for name in ("memory", "cpu", "cpuacct", "pids", "freezer")]
        )

    def memory_directory(self) -> Path:
        """Where the memory controller has its files about the group."""
        return self._in("memory")

    def create(self, limits: LimitValues, *, share: bool = False) -> None:
        """Make the groups and set their limits. Raises: OSError: a sandbox without limits must not start.

        `share` is for the group of all sandboxes: it has half the usual weight, and its quota comes in shorter periods, since everything
        in it stops when that is used up.
        """
        for directory in self.directories():
            directory.mkdir(parents=True, exist_ok=True)
        if is_unified():
            _delegate(self._in("memory").parent)
        for path, value in self._values(limits, share=share):
            path.write_text(value)

    def _values(self, limits: LimitValues, *, share: bool) -> list[tuple[Path, str]]:
        """The files that hold the limits, and what is to be in them."""
        period = _SHARE_PERIOD if share else _PERIOD
        quota, memory = str(round(limits.cpus * period)), str(limits.memory_mb << 20)
        pids = self._in("pids") / "pids.max", str(limits.pids)
        if is_unified():
            swap = self._in("memory") / "memory.swap.max"
            return [
                (self._in("cpu") / "cpu.max", f"{quota} {period}"),
                *([(self._in("cpu") / "cpu.weight", _SHARE_WEIGHT[0])] if share else []),
                (self._in("memory") / "memory.max", memory),
                *([(swap, "0")] if swap.exists() else []),
                pids,
            ]
        return [
            (self._in("cpu") / "cpu.cfs_period_us", str(period)),
            (self._in("cpu") / "cpu.cfs_quota_us", quota),
            *([(self._in("cpu") / "cpu.shares", _SHARE_WEIGHT[1])] if share else []),
            pids,
            (self._in("memory") / "memory.limit_in_bytes", memory),
        ]

    def differences(self, limits: LimitValues) -> str:
        """What of the limits of a `share` is not in force; empty when all are. Raises: OSError."""
        found = []
        for path, value in self._values(limits, share=True):
            if (actual := path.read_text().strip()) != value:
                found.append(f"{path} is {actual}, not {value}")
        return "; ".join(found)

    def cap_children(self, cpus: float) -> None:
        """Lower the quotas of the groups below: v1 refuses a group less than one of its children has. Raises: OSError."""
        if is_unified() or not self._in("cpu").is_dir():
            return
        for child in self.children():
            quota, period = (self._in("cpu") / child / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            with contextlib.suppress(FileNotFoundError):
                if int(quota.read_text()) > cpus * int(period.read_text()):
                    quota.write_text(str(round(cpus * int(period.read_text()))))
        # Between a new period and a new quota, the two together may be less than a child has.
        with contextlib.suppress(FileNotFoundError):
            (self._in("cpu") / "cpu.cfs_quota_us").write_text("-1")

    def memory_in_use(self) -> int:
        """Bytes that the group holds, page cache that can be dropped at once not counted. Raises: OSError."""
        stat = _flat(self._in("memory") / "memory.stat")
        if is_unified():
            current, prefix = self._in("memory") / "memory.current", ""
        else:
            current, prefix = self._in("memory") / "memory.usage_in_bytes", "total_"
        return int(current.read_text()) - stat.get(f"{prefix}inactive_file", 0) - stat.get(f"{prefix}active_file", 0)

    def hurry(self) -> None:
        """Let what is about to be killed go before its neighbours: dying takes processor time of the group's own."""
        cpu = self._in("cpu")
        with contextlib.suppress(OSError):
            if is_unified():
                (cpu / "cpu.weight").write_text("10000")
                (cpu / "cpu.max").write_text("max")
            else:
                (cpu / "cpu.shares").write_text("262144")
                (cpu / "cpu.cfs_quota_us").write_text("-1")

    def children(self) -> set[str]:
        """Names of the groups below, those of sandboxes; none when there is no such group."""
        try:
            with os.scandir(self._in("cpuacct")) as entries:
                return {entry.name for entry in entries if entry.is_dir()}
        except FileNotFoundError:
            return set()

    def cpu_seconds(self) -> float:
        """Processor time that the group and all below it have used. Raises: OSError."""
        return cpu_seconds(_cpu_file(self).read_bytes())

    def throttled_seconds(self) -> float:
        """How long the periods of a `share` were in which its quota was used up. Raises: OSError."""
        return _flat(self._in("cpu") / "cpu.stat").get("nr_throttled", 0) * _SHARE_PERIOD / 1e6

    def processes(self) -> list[int]:
        """Pids in the group and below it, all of the sandbox's host processes.

        On v1 in any hierarchy: a runtime that was killed while it joined them one by one is in some only.
        """
        found: set[int] = set()
        for hierarchy in _hierarchies():
            for directory, _, _ in os.walk(hierarchy / self.path.lstrip("/")):
                with contextlib.suppress(OSError):
                    found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
        return sorted(found)

    def kill(self) -> None:
        """Send SIGKILL to everything in the group."""
        if is_unified():
            try:
                (self._in("pids") / "cgroup.kill").write_text("1")
            except FileNotFoundError:
                pass
            else:
                return
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        with contextlib.suppress(OSError):
            self.thaw()  # on v1 a frozen process does not even die

    async def freeze(self, timeout: float = 10.0) -> None:
        """Let nothing in the group run until `thaw`. Raises: OSError, TimeoutError (and it runs)."""
        state = self._freezer()
        state.write_text("1" if is_unified() else "FROZEN")
        try:
            async with asyncio.timeout(timeout):
                while not self._frozen():
                    await asyncio.sleep(0.001)
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Let the group run. Raises: OSError."""
        self._freezer().write_text("0" if is_unified() else "THAWED")

    def _freezer(self) -> Path:
        return self._in("freezer") / ("cgroup.freeze" if is_unified() else "freezer.state")

    def _frozen(self) -> bool:
        if is_unified():
            return _flat(self._in("freezer") / "cgroup.events").get("frozen") == 1
        return self._freezer().read_text().strip() == "FROZEN"

    async def kill_all(self, timeout: float = 10.0) -> None:
        """Kill until nothing is left. Raises: TimeoutError."""
        async with asyncio.timeout(timeout):
            pause = 0.001
            while self.processes():
                self.kill()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.05)

    def remove(self) -> None:
        """Remove the group from every hierarchy. Raises: OSError when something still runs in it."""
        for hierarchy in _hierarchies():
            group = hierarchy / self.path.lstrip("/")
            if not group.is_dir():
                continue
            for directory, _, _ in sorted(os.walk(group), key=lambda entry: -len(entry[0])):
                Path(directory).rmdir()

    def usage(self) -> Usage:
        """Measure now. Raises: OSError when the group is gone."""
        refused = _flat(self._in("pids") / "pids.events").get("max", 0)
        if is_unified():
            stat = _flat(self._in("memory") / "memory.stat")
            cpu = _flat(self._in("cpu") / "cpu.stat")["usage_usec"] / 1e6
            current = int((self._in("memory") / "memory.current").read_text())
            kills = _flat(self._in("memory") / "memory.events").get("oom_kill", 0)
            return Usage(current, stat.get("file", 0) - stat.get("shmem", 0), cpu, kills, refused)
        stat = _flat(self._in("memory") / "memory.stat")
        cpu = int((self._in("cpuacct") / "cpuacct.usage").read_text()) / 1e9
        current = int((self._in("memory") / "memory.usage_in_bytes").read_text())
        kills = _flat(self._in("memory") / "memory.oom_control").get("oom_kill", 0)
        return Usage(current, stat.get("cache", 0) - stat.get("shmem", 0), cpu, kills, refused)


def cpu_file(parent: Cgroup, child: str) -> Path:
    """What counts the processor time of a group below another one."""
    return _cpu_file(Cgroup(f"{parent.path}/{child}"))


def _cpu_file(group: Cgroup) -> Path:
    return group._in("cpuacct") / ("cpu.stat" if is_unified() else "cpuacct.usage")


def cpu_seconds(content: bytes) -> float:
    """Processor time by the first bytes of such a file: `usage_usec N` on v2, nanoseconds on v1."""
    words = content.split()
    return int(words[1]) / 1e6 if words[0] == b"usage_usec" else int(words[0]) / 1e9


def _flat(path: Path) -> dict[str, int]:
    """Parse a `key value` file."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _delegate(parent: Path) -> None:
    """Let the children of a v2 group have limits, from the root down to `parent`."""
    chain = [path for path in (*reversed(parent.parents), parent) if path == ROOT or ROOT in path.parents]
    for path in chain:
        (path / "cgroup.subtree_control").write_text("+cpu +memory +pids")
