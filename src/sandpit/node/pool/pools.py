"""The warm pools of all template builds, within one memory budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sandpit.lib.tasks import Tasks
from sandpit.node.config import NodeConfig
from sandpit.node.pool.demand import Demand
from sandpit.node.pool.pool import Pool
from sandpit.node.sandboxes.launcher import Sandbox
from sandpit.node.snapshots import images
from sandpit.node.snapshots.templates import Templates


class Pools:
    """A pool for each build that sandboxes are asked of."""

    def __init__(
        self,
        config: NodeConfig,
        templates: Templates,
        launch: Callable[[str], Awaitable[Sandbox]],
        discard: Callable[[Sandbox], Awaitable[None]],
        standing: Tasks,
        strained: Callable[[], bool],
    ) -> None:
        """`launch` starts a sandbox of a build, `discard` ends one; pools refill in tasks of `standing`, unless the node is `strained`."""
        self._config = config
        self._templates = templates
        self._launch = launch
        self._discard = discard
        self._standing = standing
        self._strained = strained
        self._held_back = False
        self._closing = Tasks()
        self._closed = False
        self._pools: dict[str, Pool] = {}

    def of(self, build_id: str) -> Pool:
        """A build's pool; the first one who asks opens it. Raises: UnknownTemplateBuild."""
        if build_id not in self._pools:
            # A team's templates have sandboxes waiting for as long as they are asked for.
            least = 0 if images.load(self._config, build_id).owner else self._config.pool_size
            demand = Demand(least, self._config.pool_max)
            pool = Pool(build_id, demand, self._launch, self._discard, self._has_room)
            self._pools[build_id] = pool
            if not self._closed:
                pool.run(self._standing)
                self._closing.spawn(self._close_older(build_id), f"pools before {build_id}")
        return self._pools[build_id]

    def sizes(self) -> dict[str, int]:
        """Ready sandboxes by build id."""
        return {build_id: len(pool) for build_id, pool in self._pools.items()}

    async def relieve(self, *, full: bool) -> None:
        """Give one waiting sandbox up if the node is full, of the build that has the most; refill once it has room again."""
        if full:
            self._held_back = True
            largest = max(self._pools.values(), key=len, default=None)
            if largest is not None and len(largest):
                await largest.give_up()
        elif self._held_back and not self._strained():
            self._held_back = False
            for pool in self._pools.values():
                pool.poke()

    def seal(self) -> None:
        """Start nothing any more; what waits is about to end."""
        self._closed = True
        for pool in self._pools.values():
            pool.seal()

    async def drop(self, build_id: str) -> None:
        """End what waits of a build that is being removed."""
        if (pool := self._pools.pop(build_id, None)) is not None:
            await pool.close()

    async def close(self) -> None:
        """End everything that waits; no pool refills any more."""
        self.seal()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self._closing.drain()

    async def _close_older(self, build_id: str) -> None:
        """A template's new build takes its pool's place; sandboxes of earlier builds are started when they are asked for."""
        template_id = images.load(self._config, build_id).template_id
        for other, pool in list(self._pools.items()):
            image = images.load(self._config, other)
            if other != build_id and image.template_id == template_id and image.retired:
                await pool.close()

    def _has_room(self, build_id: str) -> bool:
        """Whether one more ready sandbox fits the memory budget of all pools, and the node."""
        if self._strained():
            self._held_back = True
            return False
        held = sum(pool.holding * self._templates.resident_mb(build) for build, pool in self._pools.items())
        return held + self._templates.resident_mb(build_id) <= self._config.pool_memory_mb
