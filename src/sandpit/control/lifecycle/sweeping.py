"""What stands behind the timers: every few seconds, whatever should have ended by now is ended.

A deadline can pass without its timer: the machine was suspended, the wall clock was set, a timer was lost, an end or a pause failed, a row
was written for a sandbox that came to nothing. The sweep starts from the state, not from what was planned: it needs no list of causes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import select

from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.pausing import PAUSE_RETRY_SECONDS
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from sandpit.control.core import Core
    from sandpit.control.lifecycle.live import Live

log = logging.getLogger(__name__)
SWEEP_SECONDS = 5.0
ROWS_EVERY = 12
"""Rounds between two looks for rows that no sandbox belongs to."""
ROW_GRACE = timedelta(seconds=60)
"""How long past its end such a row is left alone."""
OVERDUE_SECONDS = 15.0
"""Past its deadline for longer than this, a sandbox is reported: an end takes less, and is tried again sooner."""
MAX_REPORTED = 20
_STEP_SECONDS = 2.0
"""Of the wall clock; less is how exact the two clocks of a deadline are."""
_LOST = "lost: nothing ran under this record"


@dataclass(frozen=True, slots=True)
class Overdue:
    """A sandbox that should have ended or been paused."""

    sandbox_id: str
    state: str
    seconds: float


class Sweeper:
    """Ends what is overdue."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> NoReturn:
        number = 0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            number += 1
            try:
                await self.sweep(rows=number % ROWS_EVERY == 0)
            except Exception:  # whatever one round stumbles over: the next one is all that stands behind the timers
                log.exception("a sweep for overdue sandboxes failed, trying again in %g s", SWEEP_SECONDS)

    async def sweep(self, *, rows: bool = True) -> None:
        """One round. `rows` has the store searched, too. Raises: SQLAlchemyError."""
        core = self._core
        for live in core.live:
            self._look_at(live)
        core.expiry.sweep()
        for sandbox_id in tuple(core.unwanted):
            await core.discard(sandbox_id)
        await self._follow_the_wall_clock()
        if rows:
            await self._close_rows()

    def overdue(self) -> list[Overdue]:
        """What is past its time all the same, the longest first."""
        now = self._core.expiry.now()
        found = [
            Overdue(live.sandbox_id, live.state, now - live.deadline)
            for live in self._core.live
            if _has_deadline(live) and now - live.deadline > OVERDUE_SECONDS
        ]
        return sorted(found, key=lambda item: -item.seconds)

    def _look_at(self, live: Live) -> None:
        """A sandbox that should have a timer has one, and one that is due by the wall clock fires."""
        core = self._core
        if not _has_deadline(live) or live.state == "starting":
            return
        if live.state == "pausing" and not live.lock.locked():
            log.error("sandbox %s was left pausing by something that is over: it runs", live.sandbox_id)
            live.become("running")
            core.directory.release(live.sandbox_id)
        fires, now = core.expiry.due_at(live.sandbox_id), core.expiry.now()
        if fires is None:
            log.error("sandbox %s (%s) had no timer", live.sandbox_id, live.state)
            core.expiry.set(live.sandbox_id, live.deadline)
        elif (
            live.state == "running"
            and core.is_over(live)
            and (live.deadline > now or fires > now + PAUSE_RETRY_SECONDS)
        ):
            # By the wall clock alone, of which no timer knows; or it fires later than the longest wait for another attempt.
            core.expiry.set(live.sandbox_id, now)

    async def _follow_the_wall_clock(self) -> None:
        """After the wall clock was set back, ends that clients see would be later than those that happen: write down when they do."""
        now, wall = self._core.expiry.now(), utc_now()
        moved: dict[str, datetime] = {}
        for live in self._core.live:
            if live.state != "running" or live.end_at is None or live.lock.locked():
                continue
            end_at = wall + timedelta(seconds=live.deadline - now)
            if live.end_at > end_at + timedelta(seconds=_STEP_SECONDS):
                live.end_at = moved[live.sandbox_id] = end_at
        if not moved:
            return
        log.warning("the wall clock was set back: the ends of %d sandboxes are written down anew", len(moved))

        def write(session: Session) -> None:
            for sandbox in session.scalars(select(Sandbox).where(Sandbox.id.in_(moved), Sandbox.state == "running")):
                sandbox.end_at = moved[sandbox.id]

        await self._core.database.run(write)

    async def _close_rows(self) -> None:
        """Rows of sandboxes that this process does not have, and that should be over: a create that failed after its commit."""
        core = self._core
        before = utc_now() - ROW_GRACE
        open_rows = select(Sandbox.id).where(Sandbox.state.not_in(("ended", "paused")), Sandbox.end_at < before)
        found = await core.database.run(lambda session: list(session.scalars(open_rows)))
        lost = [sandbox_id for sandbox_id in found if core.live.get(sandbox_id) is None]
        for sandbox_id in lost:
            log.error("the record of sandbox %s was left open: closing it", sandbox_id)
            await core.discard(sandbox_id)

        def close(session: Session) -> None:
            for sandbox_id in lost:
                records.close_sandbox(session, sandbox_id, _LOST, utc_now())

        if lost:
            await core.database.run(close)


def _has_deadline(live: Live) -> bool:
    """Whether something must happen to it by a certain time. A sandbox that is being paused or resumed is in somebody's hands."""
    return live.state in ("running", "pausing", "ending") or live.unrecorded is not None
