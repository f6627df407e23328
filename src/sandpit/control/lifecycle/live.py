"""The sandboxes that run or are paused, in memory: who owns them, when they end, who is changing them."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sandpit.control.errors import ConflictError, KilledError, LimitReachedError
from sandpit.lib.ledger import Ledger, OverLimit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from datetime import datetime

    from sandpit.contract.node import SandboxMetric, SnapshotInfo
    from sandpit.lib.ledger import Reservation

State = Literal["starting", "running", "pausing", "paused", "resuming", "ending", "ended"]


@dataclass(frozen=True, slots=True)
class Pause:
    """What a sandbox was paused as, when, and its share of the team's disk until the records count it."""

    snapshot: SnapshotInfo
    at: datetime
    share: Reservation


@dataclass(slots=True, eq=False)
class Live:
    """A running or paused sandbox. `lock` protects everything that changes after start, and the sandbox on the node; its end does not
    wait for it: it interrupts whoever changes the sandbox (`changing`)."""

    sandbox_id: str
    team_id: str
    state: State = "starting"
    """Changed by `become`."""
    lifecycle: Mapping[str, Any] = field(default_factory=dict)
    """`onTimeout`, `autoResume`, `keepMemory` (see `NewSandbox.lifecycle`)."""
    timeout_s: int = 0
    """Seconds to live that were asked for at create."""
    deadline: float = 0.0
    """When it expires, in seconds of `ExpirySchedule.now()`."""
    end_at: datetime | None = None
    """The same by the wall clock, as its record and its clients have it; None until it runs."""
    last_deadline: float = 0.0
    """Beyond this no request can extend it."""
    timeout_told: float = -math.inf
    """When its log last got a line about its timeout, in seconds of the same clock."""
    gone: str | None = None
    """Why it ended while it was still being started or resumed."""
    end_reason: str | None = None
    """Why it is being ended: the first reason counts."""
    unrecorded: Pause | None = None
    """Its pause, while that could not be written down."""
    metric: SandboxMetric | None = None
    place: Reservation | None = None
    """Its place among its team's running sandboxes."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one who ends it."""
    _change: asyncio.Timeout | None = None

    @property
    def counted(self) -> bool:
        """Whether it is in its team's number of running sandboxes."""
        return self.place is not None

    @property
    def pauses(self) -> bool:
        """Whether it is paused, not killed, when its time is over."""
        return self.lifecycle.get("onTimeout") == "pause"

    @property
    def wakes(self) -> bool:
        """Whether a request resumes it, if it is paused with its processes."""
        return bool(self.lifecycle.get("autoResume"))

    @property
    def killed(self) -> bool:
        """Whether its end has begun; nothing brings it back."""
        return self.state in ("ending", "ended")

    def become(self, state: State) -> None:
        """Change its state. Raises: KilledError when its end has begun: what is ending only ends."""
        if self.killed and state not in ("ending", "ended"):
            raise KilledError(self.sandbox_id)
        if self.state != "ended":
            self.state = state

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Hold the lock for a change, which the sandbox's end interrupts. Raises: KilledError then, whatever the change has raised."""
        async with self.lock:
            begun_before_its_end = not self.killed
            try:
                async with asyncio.timeout(None) as self._change:
                    yield
            except Exception as error:
                if begun_before_its_end and self.killed and not isinstance(error, KilledError):
                    raise KilledError(self.sandbox_id) from error
                raise
            finally:
                self._change = None

    def interrupt(self) -> None:
        """Break off the change that is under way. Its end has begun."""
        if self._change is not None and not self._change.expired():
            self._change.reschedule(0.0)


class LiveSandboxes:
    """All sandboxes of this process, and how many each team has running."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live] = {}
        self._places = Ledger()
        self.closed = False
        """The server is stopping: no more sandboxes start."""

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
        return self._places.held(team_id)

    def add(self, live: Live) -> None:
        """Know one that was there before this process: it has its place whatever the limit is now."""
        self._by_id[live.sandbox_id] = live
        if live.state != "paused":
            live.place = self._places.reserve(live.team_id)

    def admit(self, live: Live, limit: int) -> None:
        """Give one that starts or resumes a place among its team's, in one step with the check: before anything is awaited.

        Raises: LimitReachedError; ConflictError: it has one.
        """
        if live.place is not None:
            raise ConflictError(f"sandbox '{live.sandbox_id}' runs already")
        try:
            live.place = self._places.reserve(live.team_id, limit=limit)
        except OverLimit:
            raise LimitReachedError(f"the team runs {limit} sandboxes, its limit") from None
        self._by_id[live.sandbox_id] = live

    def remove(self, live: Live) -> None:
        self._by_id.pop(live.sandbox_id, None)
        self._vacate(live)

    def fall_asleep(self, live: Live) -> None:
        """It is paused now, and counts no longer. Raises: KilledError."""
        live.become("paused")
        self._vacate(live)

    def _vacate(self, live: Live) -> None:
        if live.place is not None:
            live.place.release()
            live.place = None
