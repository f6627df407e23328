"""The end of sandboxes, running or paused: killed, timed out, or gone on their own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sandpit.control import records
from sandpit.control.errors import SandboxFailedError
from sandpit.node.contract import NodeError, UnknownSandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sandpit.control.core import Core
    from sandpit.control.live import Live

log = logging.getLogger(__name__)
KILL_RETRY_SECONDS = 5.0


class Ending:
    """Ends sandboxes, and what is left of them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def end(self, live: Live, reason: str, *, on_node: bool = True, only_when_due: bool = False) -> bool:
        """End a sandbox and close its records; False when somebody else had done it.

        Raises: SandboxFailedError, SQLAlchemyError; it is tried again then, without its caller.
        """
        async with live.lock:
            if live.state == "ended":
                return False
            if only_when_due and live.state == "running" and live.deadline > self._core.expiry.now():
                return False  # extended while the timer fired
            if only_when_due and live.state == "paused":
                return False  # put away while the timer fired
            paused = not live.counted
            live.state = "ending"
            self._core.expiry.cancel(live.sandbox_id)
            try:
                self._core.directory.remove(live.sandbox_id)
                if on_node:
                    await self._kill_on_node(live.sandbox_id)
                now = utc_now()
                await self._core.database.run(
                    lambda session: records.close_sandbox(session, live.sandbox_id, reason, now)
                )
            except BaseException:
                # It must not be forgotten: try again soon.
                self._core.expiry.set(live.sandbox_id, self._core.expiry.now() + KILL_RETRY_SECONDS)
                raise
            live.state = "ended"
            self._core.live.remove(live)
            if paused:
                await self._remove_snapshot(live.sandbox_id)
            return True

    async def _remove_snapshot(self, snapshot_id: str) -> None:
        try:
            await self._core.node.remove_snapshot(snapshot_id)
        except NodeError:
            log.exception("snapshot %s stays until the next start", snapshot_id)

    async def _kill_on_node(self, sandbox_id: str) -> None:
        try:
            await self._core.node.kill(sandbox_id)
        except UnknownSandbox:
            return
        except NodeError as error:
            raise SandboxFailedError(f"sandbox '{sandbox_id}' could not be killed, trying again: {error}") from error
