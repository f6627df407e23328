"""When sandboxes expire: one timer of the event loop each, on the monotonic clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ExpirySchedule:
    """Calls `expire(sandbox id)` when a deadline passes. Deadlines are in seconds of `loop.time()`."""

    def __init__(self, expire: Callable[[str], None]) -> None:
        self._expire = expire
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def set(self, sandbox_id: str, deadline: float) -> None:
        """Set or move a deadline; one in the past fires in the next turn of the loop."""
        self.cancel(sandbox_id)
        loop = asyncio.get_running_loop()
        self._timers[sandbox_id] = loop.call_at(deadline, self._fire, sandbox_id)

    def cancel(self, sandbox_id: str) -> None:
        if timer := self._timers.pop(sandbox_id, None):
            timer.cancel()

    def clear(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _fire(self, sandbox_id: str) -> None:
        self._timers.pop(sandbox_id, None)
        self._expire(sandbox_id)
