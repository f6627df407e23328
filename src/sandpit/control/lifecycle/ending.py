"""The end of sandboxes, running or paused: killed, timed out, or gone on their own.

It waits for nobody. The processes die first, whatever is being done with the sandbox; that is interrupted, and fails. Only then is its lock
taken, for as long as the interrupted change needs to clean up, and the records are closed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sandpit.contract.errors import NodeError, UnknownSandbox
from sandpit.control.errors import SandboxFailedError
from sandpit.control.lifecycle import records
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandpit.control.core import Core
    from sandpit.control.lifecycle.live import Live

log = logging.getLogger(__name__)
KILL_RETRY_SECONDS = 5.0
UNWIND_SECONDS = 10.0
"""How long a change that was interrupted may take to clean up. Its sandbox is dead already; the records are closed then in any case."""


class Ending:
    """Ends sandboxes, and what is left of them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def end(self, live: Live, reason: str, *, on_node: bool = True, only_when_due: bool = False) -> bool:
        """End a sandbox and close its records; False when somebody else had done it, or it is not due.

        Two ends wait for a change that is under way: with `only_when_due`, since it may move the deadline; and that of one that ended on
        its own (without `on_node`), since a pause may have kept it before.
        Raises: SandboxFailedError, SQLAlchemyError; it is tried again then, without its caller.
        """
        if only_when_due or not on_node:
            async with live.lock:
                if live.state == "paused":
                    return False
                if only_when_due and live.state == "running" and not self._core.is_due(live):
                    return False
                self._begin(live, reason, on_its_own=not on_node)
        async with live.ending:
            if live.state == "ended":
                return False
            self._begin(live, reason, on_its_own=not on_node)
            try:
                if on_node:
                    await self._kill_on_node(live.sandbox_id)
                await self._close(live, on_node=on_node)
            except BaseException:
                # It must not be forgotten: try again soon.
                self._core.expiry.set(live.sandbox_id, self._core.expiry.now() + KILL_RETRY_SECONDS)
                raise
            return True

    def _begin(self, live: Live, reason: str, *, on_its_own: bool) -> None:
        """From here on it only ends."""
        if live.state == "ended":
            return
        live.become("ending")
        live.end_reason = live.end_reason or reason
        live.deadline = min(live.deadline, self._core.expiry.now())
        self._core.directory.remove(live.sandbox_id, reason if on_its_own else "")
        live.interrupt()

    async def _close(self, live: Live, *, on_node: bool) -> None:
        """The records, once nobody changes it any more. Raises: SandboxFailedError, SQLAlchemyError."""
        reason, now = live.end_reason or "", utc_now()
        async with _unwound(live) as waited:
            if on_node and waited:
                await self._kill_on_node(live.sandbox_id)  # a resume may have got as far as handing it out
            await self._core.database.run(lambda session: records.close_sandbox(session, live.sandbox_id, reason, now))
            live.become("ended")
            self._core.expiry.cancel(live.sandbox_id)
            self._core.live.remove(live)
            if live.unrecorded is not None:
                live.unrecorded.share.release()
            await self._remove_snapshot(live.sandbox_id)

    async def _remove_snapshot(self, snapshot_id: str) -> None:
        """Of its pause, whole or interrupted."""
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


@asynccontextmanager
async def _unwound(live: Live) -> AsyncIterator[bool]:
    """Hold a sandbox's lock, if it is to be had in time; gives whether somebody had it."""
    waited = live.lock.locked()
    try:
        async with asyncio.timeout(UNWIND_SECONDS):
            await live.lock.acquire()
    except TimeoutError:
        log.error("what was under way in sandbox %s has not ended %g s after its kill", live.sandbox_id, UNWIND_SECONDS)
        yield True
        return
    try:
        yield waited
    finally:
        live.lock.release()
