"""When sandboxes expire: one timer of the event loop each, and the one place that decides whether a time has come.

Times are seconds of CLOCK_BOOTTIME, which goes on while the machine is suspended; the timers of the event loop do not, and may fire up
to half a millisecond early besides (uvloop counts in whole milliseconds). So a timer that finds its time not come sets itself again, an
entry stays until somebody cancels or moves it, and `sweep` finds every entry whose time has come without its timer.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_SECONDS = 0.001
"""The shortest timer after one that fired early."""
_LONGEST_SECONDS = 3600.0
"""Of one timer; longer ones are several in a row."""


class ExpirySchedule:
    """Calls `expire(sandbox id)` when a deadline has passed, never before, and again with every sweep until it is cancelled or moved."""

    def __init__(self, expire: Callable[[str], None]) -> None:
        self._expire = expire
        self._deadlines: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def due_at(self, sandbox_id: str) -> float | None:
        """When it fires next, None if never: it is not known here."""
        return self._deadlines.get(sandbox_id)

    def set(self, sandbox_id: str, deadline: float) -> None:
        """Set or move a deadline; one in the past fires in the next turn of the loop."""
        if self._closed:
            return
        self._deadlines[sandbox_id] = deadline
        self._arm(sandbox_id, 0.0)

    def cancel(self, sandbox_id: str) -> None:
        self._deadlines.pop(sandbox_id, None)
        self._disarm(sandbox_id)

    def clear(self) -> None:
        for sandbox_id in tuple(self._deadlines):
            self.cancel(sandbox_id)

    def close(self) -> None:
        """Nothing expires any more."""
        self._closed = True
        self.clear()

    def sweep(self) -> None:
        """Fire what is due, whatever became of its timer; set timers that are missing."""
        now = self.now()
        for sandbox_id, deadline in tuple(self._deadlines.items()):
            if deadline <= now:
                self._disarm(sandbox_id)
                self._expire(sandbox_id)
            elif sandbox_id not in self._timers:
                self._arm(sandbox_id, 0.0)

    def _arm(self, sandbox_id: str, least: float) -> None:
        self._disarm(sandbox_id)
        delay = min(max(self._deadlines[sandbox_id] - self.now(), least), _LONGEST_SECONDS)
        self._timers[sandbox_id] = asyncio.get_running_loop().call_later(delay, self._fire, sandbox_id)

    def _disarm(self, sandbox_id: str) -> None:
        if timer := self._timers.pop(sandbox_id, None):
            timer.cancel()

    def _fire(self, sandbox_id: str) -> None:
        self._timers.pop(sandbox_id, None)
        deadline = self._deadlines.get(sandbox_id)
        if deadline is None:
            return
        if deadline > self.now():
            self._arm(sandbox_id, _AGAIN_SECONDS)
            return
        self._expire(sandbox_id)
