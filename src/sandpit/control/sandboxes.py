"""The life of sandboxes: create, extend, change, end. Reading is in `queries`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from sandpit.control import ids, records
from sandpit.control.errors import (
    BusyError,
    ConflictError,
    ControlError,
    InvalidRequestError,
    LimitReachedError,
    NotFoundError,
    NotSupportedError,
    SandboxFailedError,
)
from sandpit.control.expiry import ExpirySchedule
from sandpit.control.idempotency import finish
from sandpit.control.live import Live, LiveSandboxes
from sandpit.control.network import check_egress, replace_egress
from sandpit.control.requests import check_timeout
from sandpit.edge.directory import Target
from sandpit.node.contract import CapacityExhausted, NodeError, SandboxSpec, UnknownSandbox, UnknownTemplateBuild
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from sandpit.control.directory import LiveDirectory
    from sandpit.control.idempotency import IdempotencyService
    from sandpit.control.network import Egress
    from sandpit.control.operations import Operations
    from sandpit.control.requests import NewSandbox
    from sandpit.control.teams import Identity
    from sandpit.control.templates import Resolved, TemplateService
    from sandpit.node.contract import Node, RunningSandbox
    from sandpit.store.database import Database

log = logging.getLogger(__name__)
KILL_RETRY_SECONDS = 5.0
MAX_REFRESH_SECONDS = 3600
MIN_REFRESH_SECONDS = 15


class SandboxService:
    """Everything that changes a sandbox. Changes run to their end even when the caller goes away."""

    def __init__(
        self,
        database: Database,
        node: Node,
        templates: TemplateService,
        idempotency: IdempotencyService,
        directory: LiveDirectory,
        operations: Operations,
    ) -> None:
        self._database = database
        self._node = node
        self._templates = templates
        self._idempotency = idempotency
        self._directory = directory
        self._operations = operations
        self._expiry = ExpirySchedule(self._expire)
        self.live = LiveSandboxes()

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

    async def connect(self, identity: Identity, sandbox_id: str, timeout_s: int) -> tuple[Sandbox, bool]:
        """The sandbox, living at least `timeout_s` seconds more, and whether it had to be resumed.

        Raises: InvalidRequestError, NotFoundError, ConflictError (being killed).
        """
        check_timeout(timeout_s, identity.max_session_seconds, minimum=1)
        live = self._own(identity, sandbox_id)
        return await self._operations.run(self._extend(live, timeout_s)), False

    async def refresh(self, identity: Identity, sandbox_id: str, duration: int) -> None:
        """Let a sandbox live at least `duration` seconds more (legacy-protocol 2.5). Raises as `connect`."""
        if not 0 <= duration <= MAX_REFRESH_SECONDS:
            raise InvalidRequestError(f"duration must be from 0 to {MAX_REFRESH_SECONDS} seconds, got {duration}")
        live = self._own(identity, sandbox_id)
        await self._operations.run(self._extend(live, max(duration, MIN_REFRESH_SECONDS)))

    async def set_timeout(self, identity: Identity, sandbox_id: str, timeout_s: int) -> None:
        """Let a sandbox end in `timeout_s` seconds, earlier or later than before; 0 ends it now.

        Raises: InvalidRequestError, NotFoundError, ConflictError.
        """
        check_timeout(timeout_s, identity.max_session_seconds, minimum=0)
        live = self._own(identity, sandbox_id)
        if timeout_s == 0:
            await self._operations.run(self._end(live, "timeout"))
            return
        await self._operations.run(self._set_deadline(live, timeout_s))

    async def kill(self, identity: Identity, sandbox_id: str) -> None:
        """End a sandbox; returns when its processes are dead. Raises: NotFoundError, SandboxFailedError."""
        live = self._own(identity, sandbox_id)
        if not await self._operations.run(self._end(live, "killed")):
            raise _not_found(sandbox_id)

    async def update_network(self, identity: Identity, sandbox_id: str, update: Mapping[str, Any]) -> None:
        """Replace all egress settings (current-protocol 3.9). Raises: InvalidRequestError, NotFoundError."""
        egress = check_egress(update, update.get("allow_internet_access"))
        live = self._own(identity, sandbox_id)
        await self._operations.run(self._update_network(live, update, egress))

    async def pause(self, identity: Identity, sandbox_id: str) -> None:
        """Raises: NotFoundError, NotSupportedError."""
        self._refuse(identity, sandbox_id, "pause sandboxes")

    async def fork(self, identity: Identity, sandbox_id: str) -> None:
        """Raises: NotFoundError, NotSupportedError."""
        self._refuse(identity, sandbox_id, "fork sandboxes")

    async def snapshot(self, identity: Identity, sandbox_id: str) -> None:
        """Raises: NotFoundError, NotSupportedError."""
        self._refuse(identity, sandbox_id, "take snapshots")

    async def resume(self, identity: Identity, sandbox_id: str) -> Sandbox:
        """Raises: NotFoundError, ConflictError (it runs already)."""
        self._own(identity, sandbox_id)
        raise ConflictError(f"sandbox '{sandbox_id}' is running already")

    # What the node and the start of the server report.

    def adopt(self, sandbox: Sandbox, running: RunningSandbox, max_session_seconds: int) -> None:
        """Take over a sandbox that outlived the last server process; an expired one ends at once."""
        live = Live(sandbox.id, sandbox.team_id)
        now, wall = self._expiry.now(), utc_now()
        live.deadline = now + (sandbox.end_at - wall).total_seconds()
        live.last_deadline = now + max_session_seconds - (wall - sandbox.started_at).total_seconds()
        self.live.add(live)
        self._announce(live, sandbox, running)

    async def gone(self, sandbox_id: str, reason: str) -> None:
        """The node says that a sandbox ended on its own."""
        live = self.live.get(sandbox_id)
        if live is None:
            return
        if live.state == "starting":
            live.gone = reason
            return
        try:
            await self._operations.run(self._end(live, reason, on_node=False))
        except (ControlError, SQLAlchemyError):
            # The node cannot help it; a timer tries again.
            log.exception("the record of sandbox %s could not be closed", sandbox_id)

    def running(self) -> int:
        """How many sandboxes run, of all teams."""
        return len(list(self.live))

    async def kill_all(self, reason: str) -> None:
        """End every sandbox of every team, and close its record with `reason`."""
        await asyncio.gather(*(self._operations.run(self._end(live, reason)) for live in list(self.live)))

    def stop(self) -> None:
        """Let no more sandboxes expire."""
        self._expiry.clear()

    # One change each; they run as operations.

    async def _create_once(self, identity: Identity, new: NewSandbox, egress: Egress, key: str) -> Sandbox:
        earlier = await self._idempotency.begin(identity.team_id, key, new.fingerprint())
        if earlier is not None:
            sandbox = await self._database.run(lambda session: session.get(Sandbox, earlier))
            if sandbox is None:
                raise _not_found(earlier)
            return sandbox
        try:
            return await self._create(identity, new, egress, key)
        except Exception:
            await self._idempotency.abandon(identity.team_id, key)
            raise

    async def _create(self, identity: Identity, new: NewSandbox, egress: Egress, key: str | None) -> Sandbox:
        resolved = await self._templates.resolve(identity, new.template)
        live = self._reserve(identity)
        try:
            sandbox, running = await self._start(identity, new, egress, resolved, live)
            await self._record(sandbox, key)
        except BaseException:
            self.live.remove(live)
            raise
        self._announce(live, sandbox, running)
        self._templates.spawned(sandbox.template_id)
        if live.gone is not None:
            await self._end(live, live.gone, on_node=False)
            raise SandboxFailedError(
                f"the sandbox ended while it was started: {live.gone}", error_code="sandbox_create_failed"
            )
        return sandbox

    def _reserve(self, identity: Identity) -> Live:
        if self.live.count(identity.team_id) >= identity.max_sandboxes:
            raise LimitReachedError(
                f"the team runs {identity.max_sandboxes} sandboxes, its limit: kill some, or wait until they end"
            )
        live = Live(ids.sandbox_id(), identity.team_id)
        self.live.add(live)
        return live

    async def _start(
        self, identity: Identity, new: NewSandbox, egress: Egress, resolved: Resolved, live: Live
    ) -> tuple[Sandbox, RunningSandbox]:
        access_token = ids.new_secret() if new.secure else None
        spec = SandboxSpec(
            sandbox_id=live.sandbox_id,
            template_id=resolved.template.id,
            build_id=resolved.build.id,
            access_token=access_token,
            env=dict(new.env_vars),
            network=egress.policy(),
        )
        try:
            running = await self._node.create(spec)
        except UnknownTemplateBuild as error:
            raise NotFoundError(f"template '{new.template}' cannot be started: {error}") from error
        except CapacityExhausted as error:
            raise BusyError(str(error), error_code="sandbox_capacity_unavailable") from error
        except NodeError as error:
            raise SandboxFailedError(
                f"the sandbox could not be started: {error}", error_code="sandbox_create_failed"
            ) from error
        started = self._expiry.now()
        live.deadline, live.last_deadline = started + new.timeout, started + identity.max_session_seconds
        sandbox = records.new_sandbox(spec, identity.team_id, new, resolved, utc_now())
        return sandbox, running

    async def _record(self, sandbox: Sandbox, key: str | None) -> None:
        """Only a started sandbox is written down: what a crash leaves unrecorded is killed at the next start."""

        def write(session: Session) -> None:
            records.insert_sandbox(session, sandbox)
            if key is not None:
                finish(session, sandbox.team_id, key, sandbox.id)

        try:
            await self._database.run(write)
        except BaseException:
            with suppress(NodeError):
                await self._node.kill(sandbox.id)
            raise

    def _announce(self, live: Live, sandbox: Sandbox, running: RunningSandbox) -> None:
        live.state = "running"
        network = sandbox.network or {}
        self._directory.add(
            Target(
                sandbox_id=sandbox.id,
                address=running.address,
                access_token=sandbox.access_token,
                traffic_token=sandbox.traffic_token,
                mask_request_host=network.get("maskRequestHost"),
                https_ports=frozenset(network.get("httpsPorts") or ()),
            )
        )
        self._expiry.set(live.sandbox_id, live.deadline)

    async def _extend(self, live: Live, seconds: int) -> Sandbox:
        self._check_running(live)
        async with live.lock:
            self._check_running(live)
            deadline = min(self._expiry.now() + seconds, live.last_deadline)
            if deadline > live.deadline:
                return await self._move_deadline(live, deadline)
            return await self._database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))

    async def _set_deadline(self, live: Live, seconds: int) -> None:
        async with live.lock:
            self._check_running(live)
            await self._move_deadline(live, min(self._expiry.now() + seconds, live.last_deadline))

    async def _move_deadline(self, live: Live, deadline: float) -> Sandbox:
        end_at = utc_now() + timedelta(seconds=deadline - self._expiry.now())

        def write(session: Session) -> Sandbox:
            sandbox = session.get_one(Sandbox, live.sandbox_id)
            sandbox.end_at = end_at
            return sandbox

        sandbox = await self._database.run(write)
        live.deadline = deadline
        self._expiry.set(live.sandbox_id, deadline)
        return sandbox

    async def _update_network(self, live: Live, change: Mapping[str, Any], egress: Egress) -> None:
        async with live.lock:
            self._check_running(live)
            try:
                await self._node.update_network(live.sandbox_id, egress.policy())
            except UnknownSandbox as error:
                raise _not_found(live.sandbox_id) from error
            except NodeError as error:
                raise SandboxFailedError(f"the egress rules could not be replaced: {error}") from error

            def write(session: Session) -> None:
                sandbox = session.get_one(Sandbox, live.sandbox_id)
                sandbox.network = replace_egress(sandbox.network, change)
                sandbox.allow_internet_access = egress.allow_internet_access
                records.write_log(session, live.sandbox_id, utc_now(), "egress rules replaced")

            await self._database.run(write)

    async def _end(self, live: Live, reason: str, *, on_node: bool = True, only_when_due: bool = False) -> bool:
        """End a sandbox and close its records; False when somebody else had done it."""
        async with live.lock:
            if live.state == "ended":
                return False
            if only_when_due and live.state == "running" and live.deadline > self._expiry.now():
                return False  # extended while the timer fired
            live.state = "ending"
            self._expiry.cancel(live.sandbox_id)
            try:
                self._directory.remove(live.sandbox_id)
                if on_node:
                    await self._kill_on_node(live.sandbox_id)
                now = utc_now()
                await self._database.run(lambda session: records.close_sandbox(session, live.sandbox_id, reason, now))
            except BaseException:
                # It must not be forgotten: try again soon.
                self._expiry.set(live.sandbox_id, self._expiry.now() + KILL_RETRY_SECONDS)
                raise
            live.state = "ended"
            self.live.remove(live)
            return True

    async def _kill_on_node(self, sandbox_id: str) -> None:
        try:
            await self._node.kill(sandbox_id)
        except UnknownSandbox:
            return
        except NodeError as error:
            raise SandboxFailedError(f"sandbox '{sandbox_id}' could not be killed, trying again: {error}") from error

    def _expire(self, sandbox_id: str) -> None:
        if (live := self.live.get(sandbox_id)) is not None:
            self._operations.spawn(self._end(live, "timeout", only_when_due=True))

    # Whose sandbox it is, and whether it can be changed.

    def _own(self, identity: Identity, sandbox_id: str) -> Live:
        live = self.live.get(sandbox_id)
        if live is None or live.team_id != identity.team_id or live.state in ("starting", "ended"):
            raise _not_found(sandbox_id)
        return live

    def _check_running(self, live: Live) -> None:
        if live.state == "ended":
            raise _not_found(live.sandbox_id)
        if live.state == "ending":
            raise ConflictError(f"sandbox '{live.sandbox_id}' is being killed")

    def _refuse(self, identity: Identity, sandbox_id: str, what: str) -> None:
        self._own(identity, sandbox_id)
        raise NotSupportedError(f"this server cannot {what} yet. Sandbox '{sandbox_id}' runs on.")


def _not_found(sandbox_id: str) -> NotFoundError:
    return NotFoundError(f"sandbox '{sandbox_id}' not found")
