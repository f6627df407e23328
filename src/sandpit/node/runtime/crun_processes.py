"""The processes of a crun sandbox, as the host sees them: their names and sizes, and their numbers inside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sandpit.node.guests.log import clean
from sandpit.node.host.processes import ProcessId
from sandpit.node.runtime.base import GuestProcess


def among(pids: Iterable[int]) -> list[GuestProcess]:
    """Those of a sandbox's processes that are not its first; some 50 us for each. Blocking."""
    return [process for pid in pids if (process := _read(pid)) is not None and process.pid > 1]


def _read(pid: int) -> GuestProcess | None:
    """None for one that has ended meanwhile, or is about to."""
    try:
        host = ProcessId.of(pid)
        fields = _fields(Path(f"/proc/{pid}/status"))
        adjustment = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    except (OSError, ValueError):
        return None
    inside, resident = fields.get("NSpid", "").split(), fields.get("VmRSS", "").split()
    if len(inside) < 2 or not resident:
        return None
    return GuestProcess(int(inside[-1]), clean(fields["Name"])[:15], int(resident[0]) << 10, adjustment, host)


def _fields(path: Path) -> dict[str, str]:
    """/proc/pid/status (proc_pid_status(5)): a name may be any bytes but a line break."""
    lines = (line.partition(":") for line in path.read_text(errors="replace").split("\n"))
    return {name: value.strip() for name, _, value in lines}
