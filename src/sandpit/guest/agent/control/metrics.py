"""`GET /metrics`: what the sandbox itself sees of its CPU, memory and disk (current-protocol 7)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20


@dataclass(slots=True)
class Meter:
    """Remembers the last CPU reading: a percentage is the mean since the reading before."""

    _last: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), busy_seconds()))

    def read(self) -> dict[str, Any]:
        """The answer of /metrics. Sizes in bytes; CPU in percent of one core, so up to 100 times the cores."""
        memory = _meminfo()
        total, cache = memory.get("MemTotal", 0), memory.get("Cached", 0)
        used = max(0, total - memory.get("MemAvailable", memory.get("MemFree", 0)))
        disk = os.statvfs("/")
        return {
            "ts": int(time.time()),
            "cpu_count": os.cpu_count() or 1,
            "cpu_used_pct": self._cpu_percent(),
            "mem_total_mib": total // _MIB,
            "mem_used_mib": used // _MIB,
            "mem_total": total,
            "mem_used": used,
            "mem_cache": cache,
            "disk_used": (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            "disk_total": disk.f_blocks * disk.f_frsize,
        }

    def _cpu_percent(self) -> float:
        now, busy = time.monotonic(), busy_seconds()
        then, busy_then = self._last
        self._last = now, busy
        return round(100 * max(0.0, busy - busy_then) / max(now - then, 0.001), 2)


def busy_seconds() -> float:
    """CPU time used since boot, all cores.

    gVisor counts nothing in /proc/stat: there it is the sum over the processes.
    """
    fields = _read("/proc/stat").partition("\n")[0].split()[1:9]
    values = [int(value) for value in fields]
    if not any(values):
        return sum(_process_seconds(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal())
    idle = sum(values[3:5])
    return (sum(values) - idle) / _TICKS_PER_S


def _process_seconds(pid: str) -> float:
    try:
        after_name = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return sum(int(value) for value in after_name[11:15]) / _TICKS_PER_S  # with those of waited-for children
    except (OSError, IndexError):  # it died meanwhile
        return 0.0


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) > 1}


def _read(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace")
