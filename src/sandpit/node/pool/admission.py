"""Who may start now: creates wait in line while there is room soon, and are refused when there is none.

A node is full when its memory is used up, or when so many sandboxes compute that one more would get too little of a processor to start in
reasonable time. Nothing waits without a bound: not in number, not in time, and not behind starts that have become slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from sandpit.contract.errors import CapacityExhausted
from sandpit.lib.turns import FairTurns
from sandpit.node.config import NodeConfig
from sandpit.node.host.load import Load
from sandpit.node.host.share import Share
from sandpit.node.snapshots.images import Image

_START_MEMORY_MB = 64
"""What a sandbox needs to start at all, in MiB; its limit is a promise that most never use."""
_SPARE = 2
"""How many times as much as a create needs must be left for sandboxes that nobody has asked for yet."""
_PAUSE_SECONDS = 0.25
_SEALED = "this server is stopping, and starts no sandboxes any more"
_SMOOTHING = 0.3
"""Weight of the last start against all before it."""


class Admission:
    """In turn between tenants; a bounded number at a time; never beyond the node's memory and processors."""

    def __init__(self, config: NodeConfig, share: Share, load: Load) -> None:
        """Take patience and bounds from the node's settings; `share` knows its memory, `load` its processors."""
        self._config = config
        self._share = share
        self._load = load
        # More at once than there are processors only delays all of them.
        self._at_once = max(2, os.cpu_count() or 2)
        self._turns = FairTurns(self._at_once)
        self._full_since: float | None = None
        self._sealed = False
        self._start_seconds = 0.0
        """How long starts took lately."""

    @asynccontextmanager
    async def turn(self, image: Image, tenant: str) -> AsyncIterator[Callable[[], None]]:
        """Hold a place among those starting, at most until what this gives is called.

        A place is for the work of this machine: nobody may hold one while a tenant's code decides how long that takes.
        Raises: CapacityExhausted when there is no room, or too many wait.
        """
        self._check_line()
        async with AsyncExitStack() as stack:
            release = await self._enter(stack, tenant)
            await self._room(image)
            began, own = time.monotonic(), False

            def begun() -> None:
                """What is measured is the work of this machine, too."""
                nonlocal own
                if not own:
                    own = True
                    self._start_seconds += _SMOOTHING * (time.monotonic() - began - self._start_seconds)
                release()

            yield begun
            begun()

    async def _enter(self, stack: AsyncExitStack, tenant: str) -> Callable[[], None]:
        try:
            async with asyncio.timeout(self._config.create_seconds):
                return await stack.enter_async_context(self._turns.turn(tenant))
        except TimeoutError:
            raise CapacityExhausted(
                f"no turn to start within {self._config.create_seconds:g} s: {self._turns.waiting} sandboxes wait on this node"
            ) from None

    @property
    def full(self) -> bool:
        """Whether there was no room when it was last looked at."""
        return self._full_since is not None

    def why_full(self, needed_mb: int = _START_MEMORY_MB, spare: int = 1) -> str | None:
        """Why a sandbox cannot start now; None if it can. `spare` times what it needs must be there."""
        available = self._share.available_mb()
        if available < needed_mb * spare:
            return (
                f"this node has {max(0, available)} MiB of memory left for sandboxes, and a start needs {needed_mb} MiB"
            )
        if (left := self._load.share(max(0, self._turns.held - 1))) < self._config.least_cpu * spare:
            return (
                f"{self._load.computing()} sandboxes of this node compute and share {self._load.room.processors:.2f} processors: "
                f"{left:.3f} of one would be left for another, which needs {self._config.least_cpu:g}"
            )
        return None

    def strained(self) -> bool:
        """Whether only those should start that somebody waits for."""
        return self.why_full(spare=_SPARE) is not None

    def observe(self) -> None:
        """Look whether the node is full, also while nobody asks."""
        if self.why_full() is None:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = time.monotonic()

    async def room(self, image: Image, seconds: float) -> None:
        """Wait for room without a place among those starting, for work that has time. What follows may be refused all the same."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.why_full(min(_START_MEMORY_MB, image.memory_mb)) is not None:
                    await asyncio.sleep(_PAUSE_SECONDS)

    def seal(self) -> None:
        """Refuse all who wait, and all who come."""
        self._sealed = True
        self._turns.refuse(CapacityExhausted(_SEALED))

    def _check_line(self) -> None:
        """Refuse at once who would wait in vain. Raises: CapacityExhausted."""
        if self._sealed:
            raise CapacityExhausted(_SEALED)
        waiting = self._turns.waiting
        if waiting >= self._config.create_queue:
            raise CapacityExhausted(f"{waiting} sandboxes wait to be started on this node: try again later")
        seconds = (waiting / self._at_once + 1) * self._start_seconds
        if waiting and seconds > self._config.create_seconds:
            raise CapacityExhausted(
                f"{waiting} sandboxes wait to be started on this node, and a start takes {self._start_seconds:.1f} s: try again later"
            )

    async def _room(self, image: Image) -> None:
        """Wait for room, as long as all others together have not waited too long for it. Raises: CapacityExhausted."""
        needed = min(_START_MEMORY_MB, image.memory_mb)
        while (why := self.why_full(needed)) is not None:
            now = time.monotonic()
            if self._full_since is None:
                self._full_since = now
            if self._sealed or now - self._full_since >= self._config.full_seconds:
                raise CapacityExhausted(f"{why}: kill sandboxes, or try again later")
            await asyncio.sleep(_PAUSE_SECONDS)
        self._full_since = None
