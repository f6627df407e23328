"""Who may start now: creates wait in line instead of failing while there is room."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from sandpit.node.config import NodeConfig
from sandpit.node.contract import CapacityExhausted
from sandpit.node.images import Image
from sandpit.node.turns import FairTurns

_START_MEMORY_MB = 64
"""What a sandbox needs to start at all, in MiB; its limit is a promise that most never use."""
_PAUSE_SECONDS = 0.25


class Admission:
    """In turn between tenants; a bounded number at a time; never beyond the host's memory."""

    def __init__(self, config: NodeConfig) -> None:
        """Take the reserve and the patience from the node's settings."""
        self._config = config
        # More at once than there are processors only delays all of them.
        self._turns = FairTurns(max(2, os.cpu_count() or 2))

    @asynccontextmanager
    async def turn(self, image: Image, tenant: str) -> AsyncIterator[Callable[[], None]]:
        """Hold a place among those starting, at most until what this gives is called. Raises: CapacityExhausted when memory stays short.

        A place is for the work of this machine: nobody may hold one while a tenant's code decides how long that takes.
        """
        async with self._turns.turn(tenant) as release:
            await self._room(image)
            yield release

    async def _room(self, image: Image) -> None:
        needed = self._config.memory_reserve_mb + min(_START_MEMORY_MB, image.memory_mb)
        try:
            async with asyncio.timeout(self._config.admission_timeout):
                while available_memory_mb() < needed:
                    await asyncio.sleep(_PAUSE_SECONDS)
        except TimeoutError:
            raise CapacityExhausted(
                f"this node has {available_memory_mb()} MiB of memory left and keeps {self._config.memory_reserve_mb} MiB "
                "in reserve: kill sandboxes, or try again later"
            ) from None


def available_memory_mb() -> int:
    """MemAvailable of the host, in MiB (proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) >> 10
    raise RuntimeError("/proc/meminfo has no MemAvailable: this kernel is too old")
