"""The sandboxes that run or are paused, in memory: who owns them, when they end, who is changing them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from sandpit.node.contract import SandboxMetric, SnapshotInfo


@dataclass(frozen=True, slots=True)
class Pause:
    """What a sandbox was put away as, and when."""

    snapshot: SnapshotInfo
    at: datetime


@dataclass(slots=True, eq=False)
class Live:
    """A running or paused sandbox. `lock` protects everything that changes after start, and the sandbox on the node."""

    sandbox_id: str
    team_id: str
    state: Literal["starting", "running", "pausing", "paused", "resuming", "ending", "ended"] = "starting"
    lifecycle: Mapping[str, Any] = field(default_factory=dict)
    """`onTimeout`, `autoResume`, `keepMemory` (see `NewSandbox.lifecycle`)."""
    timeout_s: int = 0
    """Seconds to live that were asked for at create."""
    deadline: float = 0.0
    """When it expires, in seconds of the loop's clock."""
    last_deadline: float = 0.0
    """Beyond this no request can extend it."""
    timeout_told: float = -math.inf
    """When its log last got a line about its timeout, in seconds of the loop's clock."""
    gone: str | None = None
    """Why it ended while it was still being started or resumed."""
    unrecorded: Pause | None = None
    """Its pause, while that could not be written down."""
    metric: SandboxMetric | None = None
    counted: bool = False
    """Whether it is in its team's number of running sandboxes."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def pauses(self) -> bool:
        """Whether it is paused, not killed, when its time is over."""
        return self.lifecycle.get("onTimeout") == "pause"

    @property
    def wakes(self) -> bool:
        """Whether a request resumes it, if it is paused with its processes."""
        return bool(self.lifecycle.get("autoResume"))


class LiveSandboxes:
    """All sandboxes of this process, and how many each team has running."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live] = {}
        self._per_team: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._by_id.values()))

    def get(self, sandbox_id: str) -> Live | None:
        return self._by_id.get(sandbox_id)

    def team_of(self, sandbox_id: str) -> str | None:
        """Whose a sandbox is that runs or is paused."""
        live = self._by_id.get(sandbox_id)
        return live.team_id if live is not None else None

    def count(self, team_id: str) -> int:
        """Sandboxes of a team that run, or start or stop running."""
        return self._per_team[team_id]

    def add(self, live: Live) -> None:
        self._by_id[live.sandbox_id] = live
        self._count(live, live.state != "paused")

    def remove(self, live: Live) -> None:
        if self._by_id.pop(live.sandbox_id, None) is not None:
            self._count(live, False)

    def fall_asleep(self, live: Live) -> None:
        """It is paused now, and counts no longer."""
        live.state = "paused"
        self._count(live, False)

    def wake_up(self, live: Live) -> None:
        """It is being resumed."""
        live.state = "resuming"
        self._count(live, True)

    def _count(self, live: Live, counts: bool) -> None:
        if live.counted == counts:
            return
        live.counted = counts
        self._per_team[live.team_id] += 1 if counts else -1
        if not self._per_team[live.team_id]:
            del self._per_team[live.team_id]
