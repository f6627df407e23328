"""The warm pool: sandboxes started ahead of demand.

One that was never taken has run no tenant's code; one that was taken never comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from sandpit.node.contract import NodeError
from sandpit.node.launcher import Sandbox
from sandpit.node.tasks import Tasks

log = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


class Pool:
    """Ready sandboxes of one template build."""

    def __init__(
        self,
        build_id: str,
        size: int,
        launch: Callable[[str], Awaitable[Sandbox]],
        discard: Callable[[Sandbox], Awaitable[None]],
        has_room: Callable[[str], bool],
    ) -> None:
        """`launch` starts one, `discard` ends one, `has_room` keeps all pools within the memory budget; they belong to the node."""
        self.build_id = build_id
        self._size = size
        self._launch = launch
        self._discard = discard
        self._has_room = has_room
        self._ready: deque[Sandbox] = deque()
        self._wanted = asyncio.Event()
        self._closed = False

    def run(self, tasks: Tasks) -> None:
        """Keep the pool full, in a task of the owner's."""
        self._wanted.set()
        tasks.spawn(self._refill(), f"pool of {self.build_id}")

    def __len__(self) -> int:
        """How many are ready."""
        return len(self._ready)

    def resize(self, size: int) -> None:
        """Aim for another number of ready sandboxes."""
        self._size = size
        self._wanted.set()

    def take(self) -> Sandbox | None:
        """A ready sandbox, if there is one; the pool refills behind."""
        while self._ready:
            sandbox = self._ready.popleft()
            self._wanted.set()
            if sandbox.process.alive():
                return sandbox
        self._wanted.set()
        return None

    def remove(self, sandbox: Sandbox) -> None:
        """Forget one that died."""
        if sandbox in self._ready:
            self._ready.remove(sandbox)
            self._wanted.set()

    async def _refill(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while len(self._ready) < self._size and self._has_room(self.build_id):
                try:
                    sandbox = await self._launch(self.build_id)
                except (NodeError, OSError, TimeoutError) as error:
                    log.warning("could not refill the pool of %s: %s", self.build_id, error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    self._wanted.set()
                    break
                if self._closed:
                    await self._discard(sandbox)
                    return
                self._ready.append(sandbox)
            while len(self._ready) > self._size:
                await self._discard(self._ready.pop())

    async def close(self) -> None:
        """End the ready sandboxes."""
        self._closed = True
        while self._ready:
            await self._discard(self._ready.popleft())
