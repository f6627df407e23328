"""Sandboxes that are put away with all that runs in them, and come back: when asked, at their timeout, on a request."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from sandpit.control import records
from sandpit.control.core import Core, not_found
from sandpit.control.errors import (
    BusyError,
    ConflictError,
    ControlError,
    LimitReachedError,
    SandboxFailedError,
)
from sandpit.control.network import check_egress
from sandpit.control.requests import check_timeout
from sandpit.edge.directory import WakeRefusedError
from sandpit.node.contract import (
    NodeError,
    SandboxSpec,
    UnknownSandbox,
    UnknownSnapshot,
    UnknownTemplateBuild,
)
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.control.deadlines import Deadlines
    from sandpit.control.ending import Ending
    from sandpit.control.live import Live
    from sandpit.control.quota import SnapshotQuota
    from sandpit.control.sandboxes import SandboxService
    from sandpit.control.teams import Identity, TeamService
    from sandpit.node.contract import RunningSandbox, SnapshotInfo

log = logging.getLogger(__name__)
PAUSE_RETRY_SECONDS = 30.0
"""After a pause at the timeout that failed: the sandbox goes on rather than be lost."""
LEAST_WAKE_SECONDS = 300
"""How long a sandbox lives at least that a request has resumed (current-protocol 1.7)."""


class SleepService:
    """Pause and resume. A sandbox's snapshot has the sandbox's id."""

    def __init__(
        self,
        core: Core,
        sandboxes: SandboxService,
        teams: TeamService,
        quota: SnapshotQuota,
        deadlines: Deadlines,
        ending: Ending,
    ) -> None:
        self._core = core
        self._sandboxes = sandboxes
        self._deadlines = deadlines
        self._ending = ending
        self._teams = teams
        self._quota = quota
        core.directory.waker = self.wake
        core.time_out = self.time_out

    async def pause(self, identity: Identity, sandbox_id: str, *, memory: bool = True) -> None:
        """Put a sandbox away; without `memory` only its file system is kept.

        Raises: NotFoundError, ConflictError (paused already); LimitReachedError (disk), BusyError (its agent does not answer),
        SandboxFailedError: it goes on.
        """
        live = self._core.own(identity, sandbox_id)
        await self._core.operations.run(self._pause(live, memory=memory))

    async def connect(
        self, identity: Identity, sandbox_id: str, timeout_s: int, *, memory: bool = True
    ) -> tuple[Sandbox, bool]:
        """The sandbox, living at least `timeout_s` seconds more, and whether it had to be resumed.

        Raises: InvalidRequestError, NotFoundError, ConflictError (being killed), LimitReachedError, BusyError, SandboxFailedError.
        """
        check_timeout(timeout_s, identity.max_session_seconds, minimum=1)
        live = self._core.own(identity, sandbox_id)
        if live.state == "running":
            try:
                return await self._core.operations.run(self._deadlines.extend(live, timeout_s)), False
            except ConflictError:
                if live.state not in ("pausing", "paused", "resuming"):
                    raise
        return await self._core.operations.run(self._resume(live, timeout_s, identity, memory=memory))

    async def resume(self, identity: Identity, sandbox_id: str, timeout_s: int) -> Sandbox:
        """Like `connect`, for a paused sandbox only. Raises: ConflictError when it runs."""
        check_timeout(timeout_s, identity.max_session_seconds, minimum=1)
        live = self._core.own(identity, sandbox_id)
        return await self._core.operations.run(self._resume_paused(live, timeout_s, identity))

    async def time_out(self, live: Live, *, only_when_due: bool) -> None:
        """A sandbox's time is over: pause it if that was asked for, else end it."""
        if not live.pauses or live.state not in ("running", "pausing"):
            await self._ending.end(live, "timeout", only_when_due=only_when_due)
            return
        try:
            await self._pause(live, memory=live.lifecycle.get("keepMemory") is not False, only_when_due=only_when_due)
        except ConflictError:
            return  # somebody else paused or ended it
        except (ControlError, SQLAlchemyError) as error:
            if (
                live.state == "running"
                and isinstance(error, BusyError)
                and self._core.expiry.now() > live.last_deadline
            ):
                # Whoever has root in a sandbox can keep its agent from answering: it must not live for ever by that.
                log.warning("sandbox %s ends, its session is over and it cannot be paused: %s", live.sandbox_id, error)
                await self._ending.end(live, "timeout")
                return
            if live.state == "running":
                log.warning("sandbox %s goes on, it could not be paused at its timeout: %s", live.sandbox_id, error)
                self._core.expiry.set(live.sandbox_id, self._core.expiry.now() + PAUSE_RETRY_SECONDS)
            if not only_when_due:
                raise

    async def wake(self, sandbox_id: str) -> None:
        """A request came for a sandbox that is held, which is waited for, or asleep. Raises: WakeRefusedError."""
        live, target = self._core.live.get(sandbox_id), self._core.directory.find(sandbox_id)
        if live is None or target is None:
            return
        if live.lock.locked() or target.state != "asleep":
            async with live.lock:
                return  # who may resume a sandbox that fell asleep just now is the edge's to say
        seconds = max(live.timeout_s, LEAST_WAKE_SECONDS)
        try:
            identity = await self._teams.identity_of(live.team_id)
            identity.check_may_create()
            timeout_s = min(seconds, identity.max_session_seconds)
            await self._core.operations.run(self._wake(live, timeout_s, identity))
        except ControlError as error:
            raise WakeRefusedError(error.status, error.message) from error

    async def _wake(self, live: Live, seconds: int, identity: Identity) -> None:
        """The first of many requests resumes it; the others change nothing."""
        async with live.lock:
            if live.state == "paused":
                await self._wake_up(live, seconds, identity, only_full=True)

    async def _pause(self, live: Live, *, memory: bool, only_when_due: bool = False) -> None:
        async with live.lock:
            if live.state == "paused":
                raise ConflictError(f"sandbox '{live.sandbox_id}' is paused already")
            self._core.check_running(live)
            if only_when_due and live.deadline > self._core.expiry.now():
                return  # extended while the timer fired
            await self._quota.check(live.team_id)
            await self._set_state(live, "pausing")
            live.state = "pausing"
            self._core.expiry.cancel(live.sandbox_id)
            try:
                await self._core.announce_snapshot(live)
                self._core.directory.hold(live.sandbox_id)
                info = await self._save(live, memory=memory)
            except BaseException:
                await self._go_on(live)
                raise
            self._core.live.fall_asleep(live)
            await self._record_pause(live, info)

    async def _save(self, live: Live, *, memory: bool) -> SnapshotInfo:
        sandbox_id = live.sandbox_id
        try:
            return await self._core.node.snapshot(sandbox_id, sandbox_id, memory=memory, end=True)
        except UnknownSandbox as error:
            raise not_found(sandbox_id) from error
        except NodeError as error:
            raise SandboxFailedError(f"sandbox '{sandbox_id}' could not be paused and runs on: {error}") from error

    async def _go_on(self, live: Live) -> None:
        """A pause has failed. A deadline that has passed must not fire at once: the sandbox would be held over and over."""
        live.state = "running"
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

    async def _record_pause(self, live: Live, info: SnapshotInfo) -> None:
        """Write down that a sandbox is paused. If that fails it is all the same: its record says "pausing", which is shown as paused."""
        now = utc_now()
        try:
            sandbox = await self._core.database.run(
                lambda session: records.pause_sandbox(session, live.sandbox_id, info, now)
            )
        except BaseException:
            self._core.directory.remove(live.sandbox_id)
            raise
        self._core.show_asleep(sandbox)

    async def _resume(
        self, live: Live, seconds: int, identity: Identity, *, memory: bool = True
    ) -> tuple[Sandbox, bool]:
        """Bring a sandbox back, if it is paused; the first of many callers does it."""
        sandbox = await self._if_paused(live, seconds, identity, memory=memory)
        if sandbox is not None:
            return sandbox, True
        return await self._deadlines.extend(live, seconds), False

    async def _resume_paused(self, live: Live, seconds: int, identity: Identity) -> Sandbox:
        """A sandbox that runs is left as it is, its deadline too."""
        sandbox = await self._if_paused(live, seconds, identity)
        if sandbox is not None:
            return sandbox
        self._core.check_running(live)
        raise ConflictError(f"sandbox '{live.sandbox_id}' is running already")

    async def _if_paused(self, live: Live, seconds: int, identity: Identity, *, memory: bool = True) -> Sandbox | None:
        """Bring a sandbox back; None if it was not paused. Raises: NotFoundError, ConflictError: it is ending."""
        if live.state in ("ending", "ended"):
            self._core.check_running(live)  # at once: who kills it holds the lock
        async with live.lock:
            return await self._wake_up(live, seconds, identity, memory=memory) if live.state == "paused" else None

    async def _wake_up(
        self, live: Live, seconds: int, identity: Identity, *, memory: bool = True, only_full: bool = False
    ) -> Sandbox:
        if self._core.live.count(live.team_id) >= identity.max_sandboxes:
            raise LimitReachedError(
                f"the team runs {identity.max_sandboxes} sandboxes, its limit: sandbox '{live.sandbox_id}' stays paused"
            )
        sandbox = await self._core.database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))
        if only_full and sandbox.pause_mode != "full":
            raise ConflictError(
                f"sandbox '{live.sandbox_id}' was paused without its processes: connect to it to boot it"
            )
        self._core.live.wake_up(live)
        live.gone = None
        try:
            running = await self._start(sandbox, memory=memory)
            sandbox = await self._record_resume(live, seconds, identity)
        except BaseException:
            self._core.live.fall_asleep(live)
            raise
        self._core.announce(live, sandbox, running)
        try:
            await self._core.node.remove_snapshot(live.sandbox_id)
        except NodeError:
            log.exception("the snapshot of sandbox %s stays until the next start", live.sandbox_id)
        if live.gone is not None:
            self._core.operations.spawn(self._ending.end(live, live.gone, on_node=False))
        return sandbox

    async def _start(self, sandbox: Sandbox, *, memory: bool) -> RunningSandbox:
        try:
            return await self._sandboxes.start(_spec(sandbox, memory=memory))
        except (UnknownSnapshot, UnknownTemplateBuild) as error:
            raise SandboxFailedError(f"sandbox '{sandbox.id}' cannot be resumed: {error}") from error

    async def _record_resume(self, live: Live, seconds: int, identity: Identity) -> Sandbox:
        """Until this is written, the sandbox counts as paused; what was started is ended again when it cannot be."""
        now = self._core.expiry.now()
        live.deadline, live.last_deadline = now + seconds, now + identity.max_session_seconds
        started = utc_now()
        try:
            return await self._core.database.run(
                lambda session: records.resume_sandbox(session, live.sandbox_id, started, timedelta(seconds=seconds))
            )
        except BaseException:
            try:
                await self._core.node.kill(live.sandbox_id)
            except NodeError:
                log.exception("sandbox %s runs although it counts as paused", live.sandbox_id)
            raise


def _spec(sandbox: Sandbox, *, memory: bool) -> SandboxSpec:
    """The same sandbox again: identity, token, environment and egress rules are what they were."""
    return SandboxSpec(
        sandbox_id=sandbox.id,
        template_id=sandbox.template_id,
        build_id=sandbox.build_id,
        access_token=sandbox.access_token,
        env=sandbox.env_vars,
        network=check_egress(sandbox.network or {}, sandbox.allow_internet_access).policy(),
        tenant=sandbox.team_id,
        snapshot_id=sandbox.id,
        resumed=True,
        memory=memory,
    )
