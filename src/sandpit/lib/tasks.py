"""Background work with one owner: nothing runs on after it, and a failure is logged, never lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any

log = logging.getLogger(__name__)
STOP_SECONDS = 8.0
"""How long each step of a node's stop may take."""


async def bounded(work: Awaitable[object], what: str) -> None:
    """A step of a stop; one that takes too long is left where it is, and logged."""
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await work
    except TimeoutError:
        log.error("%s took longer than %g s: the next start goes on with it", what, STOP_SECONDS)


class Tasks:
    """A set of tasks that fail one by one. (An asyncio.TaskGroup would end them all with the first failure.)"""

    def __init__(self) -> None:
        """Start empty."""
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` until it ends or the owner closes."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed: %s", task.get_name(), error, exc_info=error)

    async def drain(self) -> None:
        """Wait until everything running now, and what it starts, has ended."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Cancel everything and wait for it to end."""
        for task in self._running:
            task.cancel()
        await self.drain()
