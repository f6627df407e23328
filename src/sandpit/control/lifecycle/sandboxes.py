"""The life of sandboxes: create, extend, change, end. Reading is in `queries`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.errors import (
    CapacityExhausted,
    DiskFull,
    NodeError,
    UnknownSandbox,
    UnknownSnapshot,
    UnknownTemplateBuild,
)
from sandpit.contract.node import SandboxSpec
from sandpit.control import ids
from sandpit.control.core import Core, not_found
from sandpit.control.errors import (
    BusyError,
    ControlError,
    DiskFullError,
    InvalidRequestError,
    LimitReachedError,
    NotFoundError,
    SandboxFailedError,
)
from sandpit.control.idempotency import finish
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.live import Live
from sandpit.control.lifecycle.network import check_egress, replace_egress
from sandpit.control.lifecycle.requests import check_timeout
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

    from sandpit.contract.node import RunningSandbox
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.idempotency import IdempotencyService
    from sandpit.control.lifecycle.deadlines import Deadlines
    from sandpit.control.lifecycle.ending import Ending
    from sandpit.control.lifecycle.network import Egress
    from sandpit.control.lifecycle.requests import NewSandbox
    from sandpit.control.templates.templates import Resolved, TemplateService

log = logging.getLogger(__name__)
MAX_REFRESH_SECONDS = 3600
MIN_REFRESH_SECONDS = 15
_ENDED_AT_ONCE = 16
KILL_ALL_SECONDS = 25.0
"""How long the end of all sandboxes may take when the server stops."""


class SandboxService:
    """Create, extend, change, end. Changes run to their end even when the caller goes away."""

    def __init__(
        self,
        core: Core,
        templates: TemplateService,
        idempotency: IdempotencyService,
        deadlines: Deadlines,
        ending: Ending,
    ) -> None:
        self._core = core
        self._database = core.database
        self._node = core.node
        self._operations = core.operations
        self._expiry = core.expiry
        self._templates = templates
        self._idempotency = idempotency
        self._deadlines = deadlines
        self._ending = ending
        self.live = core.live

    async def create(self, identity: Identity, new: NewSandbox, idempotency_key: str | None = None) -> Sandbox:
        """Start a sandbox; a failure leaves nothing behind.

        Raises: InvalidRequestError, ForbiddenError, NotFoundError (template), LimitReachedError, BusyError,
        SandboxFailedError; with a key also ConflictError and IdempotencyMismatchError.
        """
        identity.check_may_create()
        egress = new.check(identity.max_session_seconds)
        if idempotency_key is None:
            return await self._operations.run(self._create(identity, new, egress, None))
        return await self._operations.run(self._create_once(identity, new, egress, idempotency_key))

    async def refresh(self, identity: Identity, sandbox_id: str, duration: int) -> None:
        """Let a sandbox live at least `duration` seconds more (legacy-protocol 2.5).

        Raises: InvalidRequestError, NotFoundError, ConflictError (being killed, or paused).
        """
        if not 0 <= duration <= MAX_REFRESH_SECONDS:
            raise InvalidRequestError(f"duration must be from 0 to {MAX_REFRESH_SECONDS} seconds, got {duration}")
        live = self._core.own(identity, sandbox_id)
        await self._operations.run(self._deadlines.extend(live, max(duration, MIN_REFRESH_SECONDS)))

    async def set_timeout(self, identity: Identity, sandbox_id: str, timeout_s: int) -> None:
        """Let a sandbox end in `timeout_s` seconds, earlier or later than before; 0 ends it now.

        Raises: InvalidRequestError, NotFoundError, ConflictError.
        """
        check_timeout(timeout_s, identity.max_session_seconds, minimum=0)
        live = self._core.own(identity, sandbox_id)
        if timeout_s == 0:
            self._core.check_running(live)
            await self._operations.run(self._core.time_out(live, only_when_due=False))
            return
        await self._operations.run(self._deadlines.set(live, timeout_s))

    async def kill(self, identity: Identity, sandbox_id: str) -> None:
        """End a sandbox; returns when its processes are dead. Raises: NotFoundError, SandboxFailedError."""
        live = self._core.own(identity, sandbox_id)
        if not await self._operations.run(self._ending.end(live, "killed")):
            raise not_found(sandbox_id)

    async def update_network(self, identity: Identity, sandbox_id: str, update: Mapping[str, Any]) -> None:
        """Replace all egress settings (current-protocol 3.9). Raises: InvalidRequestError, NotFoundError."""
        egress = check_egress(update, update.get("allow_internet_access"))
        live = self._core.own(identity, sandbox_id)
        await self._operations.run(self._update_network(live, update, egress))

    # What the node and the start of the server report.

    async def gone(self, sandbox_id: str, reason: str) -> None:
        """The node says that a sandbox ended on its own."""
        live = self.live.get(sandbox_id)
        if live is None:
            return
        if live.state in ("starting", "resuming"):
            live.gone = reason
            return
        try:
            await self._operations.run(self._ending.end(live, reason, on_node=False))
        except (ControlError, SQLAlchemyError):
            # The node cannot help it; a timer tries again.
            log.exception("the record of sandbox %s could not be closed", sandbox_id)

    def running(self) -> int:
        """How many sandboxes run, of all teams."""
        return sum(live.counted for live in self.live)

    async def kill_all(self, reason: str) -> None:
        """End every running sandbox of every team, and close its record with `reason`; paused ones stay. No more start.

        It takes `KILL_ALL_SECONDS` at most; what has not ended then is logged.
        """
        self.live.closed = True
        await self._node.kill_all()
        gate = asyncio.Semaphore(_ENDED_AT_ONCE)

        async def end(live: Live) -> None:
            async with gate:
                await self._operations.run(self._ending.end(live, reason))

        running = [live for live in self.live if live.counted]
        ends = [asyncio.ensure_future(end(live)) for live in running]
        if ends:
            await asyncio.wait(ends, timeout=KILL_ALL_SECONDS)
        for live, ended in zip(running, ends, strict=True):
            if not ended.done():
                ended.cancel()
                log.error("sandbox %s has not ended within %g s", live.sandbox_id, KILL_ALL_SECONDS)
            elif error := ended.exception():
                log.error("sandbox %s could not be ended: %s", live.sandbox_id, error)

    def stop(self) -> None:
        """Let no more sandboxes start, nor expire."""
        self.live.closed = True
        self._expiry.close()

    # One change each; they run as operations.

    async def _create_once(self, identity: Identity, new: NewSandbox, egress: Egress, key: str) -> Sandbox:
        earlier = await self._idempotency.begin(identity.team_id, key, new.fingerprint())
        if earlier is not None:
            sandbox = await self._database.run(lambda session: session.get(Sandbox, earlier))
            if sandbox is None:
                raise not_found(earlier)
            return sandbox
        try:
            return await self._create(identity, new, egress, key)
        except Exception:
            await self._idempotency.abandon(identity.team_id, key)
            raise
        finally:
            self._idempotency.end(identity.team_id, key)

    async def _resolve(self, identity: Identity, new: NewSandbox) -> Resolved:
        try:
            return await self._templates.resolve(identity, new.template)
        except NotFoundError as error:
            if new.mcp is None:
                raise
            hint = "clients that are given `mcp` ask for 'mcp-gateway': build a template of this name with the program mcp-gateway"
            raise NotFoundError(f"{error.message}; {hint}") from error

    async def _create(self, identity: Identity, new: NewSandbox, egress: Egress, key: str | None) -> Sandbox:
        resolved = await self._resolve(identity, new)
        live = self.reserve(identity, new.lifecycle(), new.timeout)
        build = resolved.build
        spec = SandboxSpec(
            sandbox_id=live.sandbox_id,
            template_id=resolved.template.id,
            build_id=build.base_build_id or build.id,
            access_token=ids.new_secret() if new.secure else None,
            env=dict(new.env_vars),
            network=egress.policy(),
            tenant=identity.team_id,
            snapshot_id=build.id if build.base_build_id is not None else None,
        )
        try:
            return await self.launch(
                live, spec, identity, lambda now: records.new_sandbox(spec, identity.team_id, new, resolved, now), key
            )
        except (UnknownTemplateBuild, UnknownSnapshot) as error:
            raise NotFoundError(f"template '{new.template}' cannot be started: {error}") from error

    def reserve(self, identity: Identity, lifecycle: Mapping[str, Any], timeout_s: int) -> Live:
        """A place among the team's running sandboxes. Raises: LimitReachedError, BusyError."""
        live = Live(ids.sandbox_id(), identity.team_id, lifecycle=lifecycle, timeout_s=timeout_s)
        try:
            self.admit(live, identity)
        except LimitReachedError as error:
            raise LimitReachedError(f"{error.message}: kill some, or wait until they end") from None
        return live

    def admit(self, live: Live, identity: Identity) -> None:
        """Give a sandbox its place before anything is awaited. Raises: LimitReachedError, BusyError (the server is stopping)."""
        if self.live.closed:
            raise BusyError("the server is stopping: no sandboxes start any more")
        self.live.admit(live, identity.max_sandboxes)

    async def launch(
        self,
        live: Live,
        spec: SandboxSpec,
        identity: Identity,
        row: Callable[[datetime], Sandbox],
        idempotency_key: str | None = None,
    ) -> Sandbox:
        """Start and write down a sandbox whose place is reserved; `row` makes its record when it runs. A failure leaves nothing behind.

        Raises: UnknownTemplateBuild, UnknownSnapshot, BusyError, SandboxFailedError.
        """
        try:
            async with live.changing():
                running = await self.start(spec)
                started = self._expiry.now()
                live.deadline, live.last_deadline = started + live.timeout_s, started + identity.max_session_seconds
                sandbox = row(utc_now())
                await self._record(sandbox, idempotency_key)
                self._core.announce(live, sandbox, running, is_new=True)
        except BaseException:
            if not live.killed:  # who kills it forgets it, too
                self.live.remove(live)
            raise
        self._templates.spawned(sandbox.template_id)
        if live.gone is not None:
            await self._ending.end(live, live.gone, on_node=False)
            raise SandboxFailedError(
                f"the sandbox ended while it was started: {live.gone}", error_code="sandbox_create_failed"
            )
        return sandbox

    async def start(self, spec: SandboxSpec) -> RunningSandbox:
        """Have the node start a sandbox. Raises: UnknownTemplateBuild, UnknownSnapshot, BusyError, DiskFullError, SandboxFailedError."""
        try:
            return await self._node.create(spec)
        except (UnknownTemplateBuild, UnknownSnapshot):
            raise
        except CapacityExhausted as error:
            raise BusyError(
                str(error), error_code="sandbox_capacity_unavailable", retry_seconds=error.retry_seconds
            ) from error
        except DiskFull as error:
            raise DiskFullError(f"the sandbox could not be started: {error}") from error
        except NodeError as error:
            raise SandboxFailedError(
                f"the sandbox could not be started: {error}", error_code="sandbox_create_failed"
            ) from error

    async def _record(self, sandbox: Sandbox, key: str | None) -> None:
        """Only a started sandbox is written down: what a crash leaves unrecorded is killed at the next start."""

        def write(session: Session) -> None:
            records.insert_sandbox(session, sandbox)
            if key is not None:
                finish(session, sandbox.team_id, key, sandbox.id)

        try:
            await self._database.run(write)
        except BaseException:
            await self._core.discard(sandbox.id)
            raise

    async def _update_network(self, live: Live, change: Mapping[str, Any], egress: Egress) -> None:
        async with live.changing():
            self._core.check_running(live)
            try:
                await self._node.update_network(live.sandbox_id, egress.policy())
            except UnknownSandbox as error:
                raise not_found(live.sandbox_id) from error
            except DiskFull as error:
                raise DiskFullError(str(error)) from error
            except NodeError as error:
                raise SandboxFailedError(f"the egress rules could not be replaced: {error}") from error

            def write(session: Session) -> None:
                sandbox = session.get_one(Sandbox, live.sandbox_id)
                sandbox.network = replace_egress(sandbox.network, change)
                sandbox.allow_internet_access = egress.allow_internet_access
                records.write_log(session, live.sandbox_id, utc_now(), "egress rules replaced")

            await self._database.run(write)
