"""Turns that are fair between tenants: who asks for a hundred does not keep out who asks for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class FairTurns:
    """At most `limit` holders at a time. Tenants with waiters are served in turn, each one's waiters in their order."""

    def __init__(self, limit: int) -> None:
        """`limit` is at least 1."""
        self._limit = self._free = limit
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By tenant; the first one is served next."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def held(self) -> int:
        """How many hold a place."""
        return self._limit - self._free

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[Callable[[], None]]:
        """Hold a place until the block ends, or until what this gives is called: for work that goes on without one."""
        await self._take(tenant)
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._pass_on()

        try:
            yield release
        finally:
            release()

    def refuse(self, error: Exception) -> None:
        """Let all who wait fail with `error`."""
        for places in self._waiting.values():
            for place in places:
                if not place.done():
                    place.set_exception(error)
        self._waiting.clear()

    async def _take(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._pass_on()  # it was given to us in the same moment
            raise

    def _pass_on(self) -> None:
        """Give a place to the next tenant's first waiter, and let that tenant go to the end of the line."""
        while self._waiting:
            tenant = next(iter(self._waiting))
            waiters = self._waiting.pop(tenant)
            place = waiters.popleft()
            if waiters:
                self._waiting[tenant] = waiters
            if not place.done():  # cancelled ones are skipped
                place.set_result(None)
                return
        self._free += 1
