"""Sandboxes that are paused with all that runs in them, and come back: when asked, at their timeout, on a request."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.directory import WakeRefusedError
from sandpit.contract.errors import NodeError, UnknownSnapshot, UnknownTemplateBuild
from sandpit.contract.node import SandboxSpec
from sandpit.control.core import Core
from sandpit.control.errors import (
    BusyError,
    ConflictError,
    ControlError,
    LimitReachedError,
    NotFoundError,
    SandboxFailedError,
)
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.network import check_egress
from sandpit.control.lifecycle.pausing import PAUSE_RETRY_SECONDS
from sandpit.control.lifecycle.requests import check_timeout
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sandpit.contract.node import RunningSandbox
    from sandpit.control.accounts.teams import Identity, TeamService
    from sandpit.control.lifecycle.deadlines import Deadlines
    from sandpit.control.lifecycle.ending import Ending
    from sandpit.control.lifecycle.live import Live
    from sandpit.control.lifecycle.pausing import Pausing
    from sandpit.control.lifecycle.sandboxes import SandboxService

log = logging.getLogger(__name__)
PAUSE_GRACE_SECONDS = 3600.0
"""How long a sandbox may outlive its session when it cannot be paused for another reason than its agent's silence; then it ends."""
LEAST_WAKE_SECONDS = 300
"""How long a sandbox lives at least that a request has resumed (current-protocol 1.7)."""


class SleepService:
    """Pause and resume."""

    def __init__(
        self,
        core: Core,
        sandboxes: SandboxService,
        teams: TeamService,
        pausing: Pausing,
        deadlines: Deadlines,
        ending: Ending,
    ) -> None:
        self._core = core
        self._sandboxes = sandboxes
        self._deadlines = deadlines
        self._ending = ending
        self._teams = teams
        self._pausing = pausing
        core.directory.waker = self.wake
        core.time_out = self.time_out

    async def pause(self, identity: Identity, sandbox_id: str, *, memory: bool = True, strict: bool = False) -> None:
        """Pause a sandbox; without `memory` only its file system is kept.

        With `strict`, and always without `memory`, its agent must answer; a snapshot of one that does not is marked, see `connect`.
        Raises: NotFoundError, ConflictError (paused already); LimitReachedError (disk), BusyError (its agent does not answer),
        SandboxFailedError: it goes on.
        """
        live = self._core.own(identity, sandbox_id)
        await self._core.operations.run(self._pausing.pause(live, memory=memory, strict=strict))

    async def connect(
        self, identity: Identity, sandbox_id: str, timeout_s: int, *, memory: bool = True
    ) -> tuple[Sandbox, bool]:
        """The sandbox, living at least `timeout_s` seconds more, and whether it had to be resumed; it boots without `memory`.

        Raises: InvalidRequestError, NotFoundError, ConflictError (being killed; or its agent did not answer when it was paused, and
        its memory would bring that back), LimitReachedError, BusyError, SandboxFailedError.
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
        """A sandbox's time is over: pause it if that was asked for, else end it. Whatever fails leaves a timer set."""
        if live.state == "paused" and live.unrecorded is not None:
            await self._pausing.record_again(live)
            return
        if not live.pauses or live.state not in ("running", "pausing"):
            await self._ending.end(live, "timeout", only_when_due=only_when_due)
            return
        try:
            await self._pausing.pause(
                live, memory=live.lifecycle.get("keepMemory") is not False, only_when_due=only_when_due
            )
        except ConflictError:
            return  # somebody else paused or ended it
        except NotFoundError:
            if live.state == "running":  # on no node any more
                await self._ending.end(live, "timeout")
        except (ControlError, SQLAlchemyError) as error:
            if live.state == "running" and await self._outlived(live, error):
                return
            if not only_when_due:
                raise

    async def _outlived(self, live: Live, error: Exception) -> bool:
        """A sandbox could not be paused at its timeout: it goes on, or is ended (True) if its session is over, too."""
        # Whoever has root in a sandbox can keep its agent from answering, and its checkpoint from succeeding; whoever owns it can use up
        # the disk for pauses. It must not live for ever by that. What may be our own failure has more time.
        more = 0.0 if isinstance(error, BusyError) else PAUSE_GRACE_SECONDS
        if self._core.expiry.now() > live.last_deadline + more:
            log.warning("sandbox %s ends, its session is over and it cannot be paused: %s", live.sandbox_id, error)
            await self._ending.end(live, "timeout")
            return True
        log.warning("sandbox %s goes on, it could not be paused at its timeout: %s", live.sandbox_id, error)
        self._core.expiry.set(live.sandbox_id, self._core.expiry.now() + PAUSE_RETRY_SECONDS)
        return False

    async def wake(self, sandbox_id: str) -> None:
        """A request came for a sandbox that is held, which is waited for, or asleep. Raises: WakeRefusedError."""
        live, target = self._core.live.get(sandbox_id), self._core.directory.find(sandbox_id)
        if live is None or target is None:
            return
        if live.lock.locked() or target.state != "asleep":
            async with live.lock:
                pass
            if target.state != "asleep" or live.state != "paused":
                return  # who may resume a sandbox that fell asleep just now is the edge's to say
        seconds = max(live.timeout_s, LEAST_WAKE_SECONDS)
        try:
            identity = await self._teams.identity_of(live.team_id)
            identity.check_may_create()
            timeout_s = min(seconds, identity.max_session_seconds)
            await self._core.operations.run(self._wake(live, timeout_s, identity))
        except ControlError as error:
            raise WakeRefusedError(error.status, error.message) from error
        except SQLAlchemyError as error:
            log.exception("sandbox %s cannot be resumed for a request", sandbox_id)
            raise WakeRefusedError(
                500, "the sandbox could not be resumed: the server's database does not answer"
            ) from error

    async def _wake(self, live: Live, seconds: int, identity: Identity) -> None:
        """The first of many requests resumes it; the others change nothing."""
        async with live.changing():
            if live.state == "paused":
                await self._wake_up(live, seconds, identity, only_full=True)

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
        async with live.changing():
            return await self._wake_up(live, seconds, identity, memory=memory) if live.state == "paused" else None

    async def _wake_up(
        self, live: Live, seconds: int, identity: Identity, *, memory: bool = True, only_full: bool = False
    ) -> Sandbox:
        self._admit(live, identity)
        try:
            await self._pausing.record(live)
            sandbox = await self._core.database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))
            if memory:
                _check_memory(sandbox, only_full=only_full)
            await self._clear_away(live)
            live.become("resuming")
            live.gone = None
            running = await self._start(sandbox, memory=memory)
            sandbox = await self._record_resume(live, seconds, identity)
        except BaseException:
            if not live.killed:
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

    def _admit(self, live: Live, identity: Identity) -> None:
        """Raises: LimitReachedError, BusyError."""
        try:
            self._sandboxes.admit(live, identity)
        except LimitReachedError as error:
            raise LimitReachedError(f"{error.message}: sandbox '{live.sandbox_id}' stays paused") from None

    async def _clear_away(self, live: Live) -> None:
        """Another life of it that a resume started and could not end must be gone before the next. Raises: SandboxFailedError."""
        if live.sandbox_id in self._core.unwanted:
            await self._core.discard(live.sandbox_id)
            if live.sandbox_id in self._core.unwanted:
                raise SandboxFailedError(
                    f"sandbox '{live.sandbox_id}' stays paused: remains of a failed resume do not end"
                )

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
            await self._core.discard(live.sandbox_id)
            raise


def _check_memory(sandbox: Sandbox, *, only_full: bool) -> None:
    """Whether a sandbox can go on where it was. Raises: ConflictError."""
    if sandbox.pause_mode == records.UNRESPONSIVE:
        raise ConflictError(
            f"the agent of sandbox '{sandbox.id}' did not answer when it was paused, and its memory would bring that back: "
            "connect to it without memory to boot it from its files",
            error_code="sandbox_snapshot_guest_agent_unresponsive",
        )
    if only_full and sandbox.pause_mode != records.FULL:
        raise ConflictError(f"sandbox '{sandbox.id}' was paused without its processes: connect to it to boot it")


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
