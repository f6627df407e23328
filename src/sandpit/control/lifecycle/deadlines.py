"""Moving the end of running sandboxes: in the store, which outlives the server, and in the timer that ends them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sandpit.control.lifecycle import records
from sandpit.control.times import rfc3339
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.control.core import Core
    from sandpit.control.lifecycle.live import Live

TELL_TIMEOUT_SECONDS = 30.0
"""A sandbox's log has at most one line about its timeout in this time."""


class Deadlines:
    """When sandboxes end, within their sessions' longest time."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def extend(self, live: Live, seconds: int) -> Sandbox:
        """Let it live at least `seconds` more, never less than before. Raises: NotFoundError, ConflictError."""
        self._core.check_running(live)
        async with live.changing():
            self._core.check_running(live)
            deadline = min(self._core.expiry.now() + seconds, live.last_deadline)
            if deadline > live.deadline:
                return await self._move(live, deadline)
            return await self._core.database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))

    async def set(self, live: Live, seconds: int) -> None:
        """Let it end in `seconds`, earlier or later than before. Raises: NotFoundError, ConflictError."""
        async with live.changing():
            self._core.check_running(live)
            await self._move(live, min(self._core.expiry.now() + seconds, live.last_deadline))

    async def _move(self, live: Live, deadline: float) -> Sandbox:
        now = self._core.expiry.now()
        end_at = utc_now() + timedelta(seconds=deadline - now)
        # Some clients extend every few seconds, for hours.
        if tell := now >= live.timeout_told + TELL_TIMEOUT_SECONDS:
            live.timeout_told = now

        def write(session: Session) -> Sandbox:
            sandbox = session.get_one(Sandbox, live.sandbox_id)
            sandbox.end_at = end_at
            if tell:
                records.write_log(
                    session, live.sandbox_id, utc_now(), "timeout set", level="debug", endAt=rfc3339(end_at)
                )
            return sandbox

        sandbox = await self._core.database.run(write)
        live.deadline, live.end_at = deadline, end_at
        self._core.expiry.set(live.sandbox_id, deadline)
        return sandbox
