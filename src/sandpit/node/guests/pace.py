"""How fast a guest may make this process work: what comes faster is read later, so that the guest waits."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """So much at once, then so much a second."""

    def __init__(self, per_second: float, burst: float) -> None:
        """In units of the caller's."""
        self._per_second = per_second
        self._burst = self._credit = burst
        self._credited = time.monotonic()

    async def spend(self, amount: float) -> None:
        """Account for work, and wait as long as it was too much."""
        self._add_credit()
        self._credit -= amount
        if self._credit < 0:
            await asyncio.sleep(-self._credit / self._per_second)

    def afford(self, amount: float) -> bool:
        """Account for work unless it is too much: then it must not be done."""
        self._add_credit()
        if self._credit < amount:
            return False
        self._credit -= amount
        return True

    def _add_credit(self) -> None:
        now = time.monotonic()
        self._credit = min(self._burst, self._credit + (now - self._credited) * self._per_second)
        self._credited = now
