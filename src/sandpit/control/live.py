"""The sandboxes that run now, in memory: who owns them, when they end, who is changing them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandpit.node.contract import SandboxMetric


@dataclass(slots=True, eq=False)
class Live:
    """A running sandbox. `lock` protects everything that changes after start, and the sandbox on the node."""

    sandbox_id: str
    team_id: str
    state: Literal["starting", "running", "ending", "ended"] = "starting"
    deadline: float = 0.0
    """When it expires, in seconds of the loop's clock."""
    last_deadline: float = 0.0
    """Beyond this no request can extend it."""
    gone: str | None = None
    """Why it ended while it was still being started."""
    metric: SandboxMetric | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class LiveSandboxes:
    """All running sandboxes of this process, and how many each team has."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live] = {}
        self._per_team: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._by_id.values()))

    def get(self, sandbox_id: str) -> Live | None:
        return self._by_id.get(sandbox_id)

    def count(self, team_id: str) -> int:
        """Running and starting sandboxes of a team."""
        return self._per_team[team_id]

    def add(self, live: Live) -> None:
        self._by_id[live.sandbox_id] = live
        self._per_team[live.team_id] += 1

    def remove(self, live: Live) -> None:
        if self._by_id.pop(live.sandbox_id, None) is None:
            return
        self._per_team[live.team_id] -= 1
        if not self._per_team[live.team_id]:
            del self._per_team[live.team_id]
