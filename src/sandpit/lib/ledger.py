"""What teams have reserved of things that are limited: the one mechanism behind every quota.

A check that is followed by an `await` before the thing exists lets others pass the same check. So an amount is reserved first, in one step
with the check, and held until what it was for is counted elsewhere, or came to nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType


class OverLimit(Exception):
    """No more of this can be reserved."""


class Reservation:
    """An amount that is held. Given back exactly once, however often `release` is called; leaving the context does it, too."""

    def __init__(self, ledger: Ledger, holder: str, amount: int) -> None:
        self._ledger: Ledger | None = ledger
        self._holder = holder
        self.amount = amount

    def settle(self, amount: int) -> None:
        """What was an estimate is known now."""
        if self._ledger is not None:
            self._ledger.change(self._holder, amount - self.amount)
            self.amount = amount

    def hand_over(self) -> Reservation:
        """The same amount, for another owner: leaving this one's context gives nothing back any more."""
        if self._ledger is None:
            raise ValueError("this reservation was given back")
        heir = Reservation(self._ledger, self._holder, self.amount)
        self._ledger = None
        return heir

    def release(self) -> None:
        """Give it back."""
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.change(self._holder, -self.amount)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Ledger:
    """Amounts of one thing that are held, by holder (a team). Nothing here waits: a check and its reservation are one step."""

    def __init__(self) -> None:
        """Nothing is held."""
        self._held: Counter[str] = Counter()
        self.changes: Counter[str] = Counter()
        """By holder, how often an amount got smaller: what was held may be counted elsewhere since."""
        self._changed = asyncio.Event()

    def held(self, holder: str) -> int:
        """How much a holder has reserved."""
        return self._held[holder]

    def reserve(self, holder: str, amount: int = 1, *, limit: int | None = None) -> Reservation:
        """Hold an amount. Raises: OverLimit when all of the holder's together would be more than `limit`."""
        if limit is not None and self._held[holder] + amount > limit:
            raise OverLimit
        self.change(holder, amount)
        return Reservation(self, holder, amount)

    def change(self, holder: str, by: int) -> None:
        """For reservations."""
        self._held[holder] += by
        if not self._held[holder]:
            del self._held[holder]
        if by < 0:
            self.changes[holder] += 1
            self._changed.set()
            self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait until somebody holds less than before."""
        await self._changed.wait()


class DiskLedger:
    """Disk whose use is counted elsewhere once it is used, and whose size is known only then.

    An estimate is reserved. While a holder's estimates do not fit beside what is used, the next one waits until one is settled; alone, one
    goes ahead as long as the limit is not reached. So a holder passes its limit by at most what a single one takes beyond its estimate.
    """

    def __init__(self, used: Callable[[str], Awaitable[int]]) -> None:
        """`used` counts the bytes that a holder uses, without those that are reserved."""
        self._used = used
        self._ledger = Ledger()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def held(self, holder: str) -> int:
        """Bytes that are reserved."""
        return self._ledger.held(holder)

    @asynccontextmanager
    async def reserve(self, holder: str, estimate: int, limit: int) -> AsyncIterator[Reservation]:
        """Hold `estimate` bytes for the block, unless they are handed over. Raises: OverLimit, and what `used` raises.

        The block must end after what it made is counted as used.
        """
        async with self._turns[holder]:  # one decides at a time: what others hold can only get less meanwhile
            await self._until_room(holder, estimate, limit)
            reservation = self._ledger.reserve(holder, estimate)
        with reservation:
            yield reservation

    async def _until_room(self, holder: str, estimate: int, limit: int) -> None:
        while True:
            seen = self._ledger.changes[holder]
            used = await self._used(holder)
            if seen != self._ledger.changes[holder]:
                continue  # something was settled while the count was under way, which may have missed it
            if used >= limit:
                raise OverLimit
            held = self._ledger.held(holder)
            if not held or used + held + estimate <= limit:
                return
            await self._ledger.changed()
