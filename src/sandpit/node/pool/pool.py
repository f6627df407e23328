"""The warm pool: sandboxes started ahead of demand.

One that was never taken has run no tenant's code; one that was taken never comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from sandpit.contract.errors import NodeError
from sandpit.lib.tasks import Tasks
from sandpit.node.pool.demand import Demand
from sandpit.node.sandboxes.launcher import Sandbox

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0
_CALM_SECONDS = 0.3
_LATEST_SECONDS = 1.5
"""A refill takes a processor for a quarter of a second. Right behind a create that is the time of a first command, so it waits
until nobody took one for a moment, but not for long."""


class Pool:
    """Ready sandboxes of one template build."""

    def __init__(
        self,
        build_id: str,
        demand: Demand,
        launch: Callable[[str], Awaitable[Sandbox]],
        discard: Callable[[Sandbox], Awaitable[None]],
        has_room: Callable[[str], bool],
    ) -> None:
        """`launch` starts one, `discard` ends one, `has_room` keeps all pools within the memory budget; they belong to the node."""
        self.build_id = build_id
        self._demand = demand
        self._launch = launch
        self._discard = discard
        self._has_room = has_room
        self._ready: deque[Sandbox] = deque()
        self._wanted = asyncio.Event()
        self._last_taken = -_CALM_SECONDS
        self._closed = False
        self._starting = 0
        self._watches: dict[str, asyncio.Task[None]] = {}
        """By container id: what waits for the end of each ready sandbox."""

    def run(self, tasks: Tasks) -> None:
        """Keep the pool full, in a task of the owner's."""
        self._wanted.set()
        tasks.spawn(self._refill(tasks), f"pool of {self.build_id}")

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._ready)

    @property
    def holding(self) -> int:
        """How many have, or are about to have, a share of the memory budget: the one that is being started counts from before it is."""
        return len(self._ready) + self._starting

    def take(self) -> Sandbox | None:
        """A ready sandbox, if there is one; the pool refills behind, and grows with demand."""
        self._demand.ask(time.monotonic())
        self._wanted.set()
        for sandbox in self._ready:
            if sandbox.process.alive():
                self._last_taken = time.monotonic()
                self._release(sandbox)
                return sandbox
        return None

    def _release(self, sandbox: Sandbox) -> None:
        self._ready.remove(sandbox)
        self._watches.pop(sandbox.container_id).cancel()

    async def _watch(self, sandbox: Sandbox) -> None:
        """Replace a ready sandbox that dies."""
        await sandbox.process.wait()
        log.warning("a waiting sandbox of %s ended on its own", self.build_id)
        self._ready.remove(sandbox)
        del self._watches[sandbox.container_id]
        self._wanted.set()
        await self._discard(sandbox)

    async def _calm(self) -> None:
        """Wait until those who took sandboxes had a moment to themselves."""
        latest = time.monotonic() + _LATEST_SECONDS
        while (pause := min(self._last_taken + _CALM_SECONDS, latest) - time.monotonic()) > 0:
            await asyncio.sleep(pause)

    def _target(self) -> int:
        return self._demand.wanted(time.monotonic())

    async def _until_wanted(self) -> None:
        """Wait until one was taken or has died, or until fewer are wanted than there are."""
        seconds = self._demand.next_change(time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        self._wanted.clear()

    async def _refill(self, tasks: Tasks) -> None:
        while True:
            await self._until_wanted()
            while not self._closed and len(self._ready) < self._target() and self._has_room(self.build_id):
                self._starting = 1
                try:
                    await self._calm()
                    sandbox = await self._launch(self.build_id)
                except (NodeError, OSError, TimeoutError) as error:
                    log.warning("could not refill the pool of %s: %s", self.build_id, error)
                    self._starting = 0
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._wanted.set()
                    break
                finally:
                    self._starting = 0
                if self._closed:
                    await self._discard(sandbox)
                    return
                self._ready.append(sandbox)
                watch = tasks.spawn(self._watch(sandbox), f"watch {sandbox.container_id}")
                self._watches[sandbox.container_id] = watch
            while len(self._ready) > self._target():
                await self._end(self._ready[-1])

    async def _end(self, sandbox: Sandbox) -> None:
        self._release(sandbox)
        await self._discard(sandbox)

    def poke(self) -> None:
        """Look again how many are wanted, and whether there is room."""
        self._wanted.set()

    async def give_up(self) -> None:
        """End a ready sandbox, which nobody waits for."""
        await self._end(self._ready[-1])

    def seal(self) -> None:
        """Start none any more."""
        self._closed = True

    async def close(self) -> None:
        """End the ready sandboxes."""
        self.seal()
        while self._ready:
            await self._end(self._ready[0])
