"""Looking all the time which sandboxes are idle, and whether there is room for more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from sandpit.node.host.idling import Idling
from sandpit.node.host.load import LOOK_SECONDS, Load
from sandpit.node.pool.admission import Admission
from sandpit.node.pool.pools import Pools
from sandpit.node.sandboxes.launcher import Sandbox

log = logging.getLogger(__name__)


class Overseer:
    """One look a second at what sandboxes use, and what follows from it."""

    def __init__(self, load: Load, idling: Idling, admission: Admission, pools: Pools) -> None:
        """Use the given parts; they belong to the node."""
        self._load = load
        self._idling = idling
        self._admission = admission
        self._pools = pools

    async def run(self, sandboxes: Callable[[], Sequence[Sandbox]]) -> NoReturn:
        """Look until cancelled; `sandboxes` are those that somebody has."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self._load.look)
                await self._idling.look(sandboxes(), self._load.last)
                self._admission.observe()
                await self._pools.relieve(full=self._admission.full)
            except (OSError, TimeoutError) as error:
                log.warning("the load cannot be seen: %s", error)
