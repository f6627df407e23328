"""Pausing sandboxes with all that runs in them. A paused sandbox's snapshot has the sandbox's id."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.errors import AgentUnresponsive, DiskFull, NodeError, UnknownSandbox
from sandpit.control.core import Core, not_found
from sandpit.control.errors import BusyError, ConflictError, DiskFullError, SandboxFailedError
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.live import Pause
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.contract.node import SnapshotInfo
    from sandpit.control.accounts.quota import SnapshotQuota
    from sandpit.control.lifecycle.live import Live
    from sandpit.lib.ledger import Reservation

log = logging.getLogger(__name__)
PAUSE_RETRY_SECONDS = 30.0
"""After a pause at the timeout that failed: the sandbox goes on rather than be lost."""
RECORD_RETRY_SECONDS = 5.0
"""After a pause that has happened, but could not be written down."""


class Pausing:
    """Pauses sandboxes, one at a time each."""

    def __init__(self, core: Core, quota: SnapshotQuota) -> None:
        self._core = core
        self._quota = quota

    async def pause(self, live: Live, *, memory: bool, strict: bool = False, only_when_due: bool = False) -> None:
        """Pause a running sandbox.

        An agent that does not answer is noted in the snapshot, but with `strict`, or without `memory`, it is a reason not to pause.
        Raises: NotFoundError, ConflictError, LimitReachedError, BusyError, DiskFullError, SandboxFailedError: it goes on;
        SQLAlchemyError: either.
        """
        async with live.changing():
            if live.state == "paused":
                raise ConflictError(f"sandbox '{live.sandbox_id}' is paused already")
            self._core.check_running(live)
            if only_when_due and not self._core.is_due(live):
                return  # extended while the timer fired
            async with self._quota.reserve(live, memory=memory) as share:
                await self._pause(live, share, memory=memory, must_answer=strict or not memory)

    async def _pause(self, live: Live, share: Reservation, *, memory: bool, must_answer: bool) -> None:
        """Raises: as `pause`, after a failure the sandbox goes on."""
        try:
            await self._set_state(live, "pausing")
            live.become("pausing")
            await self._announce(live, must_answer=must_answer)
            self._core.directory.hold(live.sandbox_id)
            info = await self._save(live, memory=memory)
        except BaseException:
            await self._go_on(live)
            raise
        self._core.live.fall_asleep(live)
        share.settle(info.size)
        live.unrecorded = Pause(info, utc_now(), share.hand_over())
        await self.record(live)

    async def record(self, live: Live) -> None:
        """Write down that a sandbox is paused. Hold its lock. Raises: SQLAlchemyError; it is tried again then.

        Until it succeeds the record says "pausing", which is shown as paused, and the next server takes for it.
        """
        pause = live.unrecorded
        if pause is None:
            return
        try:
            sandbox = await self._core.database.run(
                lambda session: records.pause_sandbox(session, live.sandbox_id, pause.snapshot, pause.at)
            )
        except BaseException:
            if not live.killed:
                self._core.show_paused(live.sandbox_id, wakes=live.wakes and records.is_full(pause.snapshot))
                now = self._core.expiry.now()
                live.deadline = min(live.deadline, now)
                self._core.expiry.set(live.sandbox_id, now + RECORD_RETRY_SECONDS)
            raise
        pause.share.release()
        live.unrecorded = None
        self._core.expiry.cancel(live.sandbox_id)
        self._core.show_asleep(sandbox)

    async def record_again(self, live: Live) -> None:
        """The time of a sandbox whose pause is not written down."""
        async with live.changing():
            if live.state != "paused":
                return
            try:
                await self.record(live)
            except SQLAlchemyError as error:
                log.warning("the pause of sandbox %s is still not written down: %s", live.sandbox_id, error)

    async def _announce(self, live: Live, *, must_answer: bool) -> None:
        """The sandbox is told, so that what its clients started goes on. Raises: NotFoundError, BusyError."""
        try:
            await self._core.node.announce_snapshot(live.sandbox_id)
        except UnknownSandbox as error:
            raise not_found(live.sandbox_id) from error
        except AgentUnresponsive as error:
            if must_answer:
                raise BusyError(str(error)) from error  # clients know this status as "not paused, try again"
            log.warning("sandbox %s is paused as it is: %s", live.sandbox_id, error)

    async def _save(self, live: Live, *, memory: bool) -> SnapshotInfo:
        sandbox_id = live.sandbox_id
        try:
            return await self._core.node.snapshot(sandbox_id, sandbox_id, memory=memory, end=True)
        except UnknownSandbox as error:
            raise not_found(sandbox_id) from error
        except DiskFull as error:
            raise DiskFullError(f"sandbox '{sandbox_id}' could not be paused and runs on: {error}") from error
        except NodeError as error:
            raise SandboxFailedError(f"sandbox '{sandbox_id}' could not be paused and runs on: {error}") from error

    async def _go_on(self, live: Live) -> None:
        """A pause has failed. A deadline that has passed must not fire at once: the sandbox would be held over and over."""
        if live.killed:
            return  # that is why
        live.become("running")
        self._core.directory.release(live.sandbox_id)
        now = self._core.expiry.now()
        self._core.expiry.set(live.sandbox_id, live.deadline if live.deadline > now else now + PAUSE_RETRY_SECONDS)
        try:
            await self._set_state(live, "running")
        except SQLAlchemyError:
            log.exception("sandbox %s runs, but its record says that it is being paused", live.sandbox_id)

    async def _set_state(self, live: Live, state: str) -> None:
        def write(session: Session) -> None:
            session.get_one(Sandbox, live.sandbox_id).state = state

        await self._core.database.run(write)
