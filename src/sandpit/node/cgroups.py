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

    cpu_count: int
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

    def create(self, limits: LimitValues) -> None:
        """Make the groups and set their limits. Raises: OSError: a sandbox without limits must not start."""
        for directory in self.directories():
            directory.mkdir(parents=True, exist_ok=True)
        memory = str(limits.memory_mb << 20)
        if is_unified():
            _delegate(self._in("memory").parent)
            (self._in("cpu") / "cpu.max").write_text(f"{limits.cpu_count * 100_000} 100000")
            (self._in("memory") / "memory.max").write_text(memory)
            swap = self._in("memory") / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
        else:
            (self._in("cpu") / "cpu.cfs_quota_us").write_text(str(limits.cpu_count * 100_000))
            (self._in("memory") / "memory.limit_in_bytes").write_text(memory)
        (self._in("pids") / "pids.max").write_text(str(limits.pids))

    def processes(self) -> list[int]:
        """Pids in the group, all of the sandbox's host processes.

        On v1 in any hierarchy: a runtime that was killed while it joined them one by one is in some only.
        """
        found: set[int] = set()
        for hierarchy in _hierarchies():
            with contextlib.suppress(OSError):
                found.update(map(int, (hierarchy / self.path.lstrip("/") / "cgroup.procs").read_text().split()))
        return sorted(found)

    def set_timer_slack(self, seconds: float) -> None:
        """Let timers of everything in the group fire this much late, so that wake-ups fall together (proc(5), timerslack_ns)."""
        value = str(int(seconds * 1e9))
        for pid in self.processes():
            for thread in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    Path(f"/proc/{thread.name}/timerslack_ns").write_text(value)

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


def _flat(path: Path) -> dict[str, int]:
    """Parse a `key value` file."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _delegate(parent: Path) -> None:
    """Let the children of a v2 group have limits, from the root down to `parent`."""
    chain = [path for path in (*reversed(parent.parents), parent) if path == ROOT or ROOT in path.parents]
    for path in chain:
        (path / "cgroup.subtree_control").write_text("+cpu +memory +pids")
