"""Copies of running sandboxes: forks, which run at once, and snapshots, which are kept as builds of a template."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.errors import DiskFull, NodeError, UnknownSandbox, UnknownSnapshot, UnknownTemplateBuild
from sandpit.contract.node import SandboxSpec
from sandpit.control import ids
from sandpit.control.core import Core, not_found
from sandpit.control.cursors import encode_cursor
from sandpit.control.errors import (
    ControlError,
    DiskFullError,
    ForbiddenError,
    InvalidRequestError,
    SandboxFailedError,
)
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.network import check_egress
from sandpit.control.lifecycle.requests import check_timeout
from sandpit.control.limits import MAX_FORKS, MAX_PAGE
from sandpit.control.templates import snapshotrecords
from sandpit.control.templates.names import TemplateRef, parse_ref
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.orm import Session

    from sandpit.contract.node import SnapshotInfo
    from sandpit.control.accounts.quota import SnapshotQuota
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.lifecycle.live import Live
    from sandpit.control.lifecycle.sandboxes import SandboxService
    from sandpit.control.templates.snapshotrecords import SnapshotView
    from sandpit.control.templates.templates import TemplateService

log = logging.getLogger(__name__)


class SnapshotService:
    """Takes, lists and deletes snapshots, and forks sandboxes. The sandbox that is copied goes on; its open streams are cut."""

    def __init__(self, core: Core, sandboxes: SandboxService, templates: TemplateService, quota: SnapshotQuota) -> None:
        self._core = core
        self._sandboxes = sandboxes
        self._templates = templates
        self._quota = quota

    async def fork(
        self, identity: Identity, sandbox_id: str, count: int, timeout_s: int
    ) -> Sequence[Sandbox | ControlError]:
        """`count` copies that run from here on, each a row or the reason why there is none.

        Raises: InvalidRequestError, NotFoundError, ConflictError (paused), LimitReachedError (disk), SandboxFailedError.
        """
        identity.check_may_create()
        check_timeout(timeout_s, identity.max_session_seconds, minimum=1)
        if not 1 <= count <= MAX_FORKS:
            raise InvalidRequestError(f"count must be from 1 to {MAX_FORKS}, got {count}")
        live = self._core.own(identity, sandbox_id)
        return await self._core.operations.run(self._fork(identity, live, count, timeout_s))

    async def take(self, identity: Identity, sandbox_id: str, name: str | None, *, memory: bool = True) -> SnapshotView:
        """Keep a running sandbox's state, under `name[:tag]` if given.

        Raises: InvalidRequestError (name), ForbiddenError (another team's name), NotFoundError, ConflictError (paused),
        LimitReachedError (disk), SandboxFailedError.
        """
        identity.check_may_create()
        ref = parse_ref(name) if name is not None else None
        if ref is not None and ref.namespace not in (None, identity.slug):
            raise ForbiddenError(
                f"'{ref.namespace}' is not your team: leave it out, or name the snapshot '{identity.slug}/...'"
            )
        live = self._core.own(identity, sandbox_id)
        return await self._core.operations.run(self._keep(identity, live, ref, memory))

    async def page(
        self, identity: Identity, sandbox_id: str | None, name: str | None, limit: int | None, next_token: str | None
    ) -> tuple[list[SnapshotView], str | None]:
        """A team's snapshots, newest first, and the token of the next page. Raises: InvalidRequestError."""
        limit = MAX_PAGE if limit is None else limit
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequestError(f"limit must be from 1 to {MAX_PAGE}, got {limit}")
        query = snapshotrecords.listing(identity, sandbox_id, name, next_token).limit(limit + 1)
        views = await self._core.database.run(
            lambda session: [snapshotrecords.view(session, row, identity.slug) for row in list(session.scalars(query))]
        )
        more = views[limit - 1].row if len(views) > limit else None
        return views[:limit], encode_cursor(more.created_at, more.build_id, False) if more else None

    async def delete(self, identity: Identity, text: str) -> None:
        """Delete a snapshot by its id, or all of a template id without a tag.

        Raises: NotFoundError; InvalidRequestError while sandboxes made of it are there; ForbiddenError for other templates.
        """
        ref = parse_ref(text)
        doomed = await self._core.database.run(
            lambda session: snapshotrecords.delete_snapshots(session, identity, ref, text)
        )
        self._templates.changed()
        for build_id in doomed:
            await self._core.node.remove_snapshot(build_id)

    @asynccontextmanager
    async def _saved(self, live: Live, snapshot_id: str, *, memory: bool) -> AsyncIterator[SnapshotInfo]:
        """A snapshot, and its share of the team's disk until the block ends: by then it is written down, or gone.

        Raises: NotFoundError, ConflictError, LimitReachedError, BusyError, SandboxFailedError; the sandbox goes on in any case.
        """
        async with AsyncExitStack() as stack:
            async with live.changing():
                self._core.check_running(live)
                # Under the lock, as pauses do: in another order two could wait for each other.
                share = await stack.enter_async_context(self._quota.reserve(live, memory=memory))
                info = await self._hold_and_save(live, snapshot_id, memory=memory)
            share.settle(info.size)
            yield info

    async def _hold_and_save(self, live: Live, snapshot_id: str, *, memory: bool) -> SnapshotInfo:
        await self._core.announce_snapshot(live)
        self._core.directory.hold(live.sandbox_id)
        try:
            return await self._core.node.snapshot(live.sandbox_id, snapshot_id, memory=memory, end=False)
        except UnknownSandbox as error:
            raise not_found(live.sandbox_id) from error
        except DiskFull as error:
            raise DiskFullError(f"sandbox '{live.sandbox_id}' could not be copied, it runs on: {error}") from error
        except NodeError as error:
            raise SandboxFailedError(f"sandbox '{live.sandbox_id}' could not be copied, it runs on: {error}") from error
        finally:
            self._core.directory.release(live.sandbox_id)

    async def _fork(
        self, identity: Identity, live: Live, count: int, timeout_s: int
    ) -> Sequence[Sandbox | ControlError]:
        origin = await self._core.database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))
        snapshot_id = ids.new_uuid()
        async with self._saved(live, snapshot_id, memory=True):
            try:
                copies = (self._copy(identity, origin, snapshot_id, timeout_s) for _ in range(count))
                results = await asyncio.gather(*copies)
                await self._tell_forks(live.sandbox_id, [copy.id for copy in results if isinstance(copy, Sandbox)])
                return results
            finally:
                await self._core.node.remove_snapshot(snapshot_id)

    async def _tell_forks(self, origin_id: str, copies: Sequence[str]) -> None:
        def write(session: Session) -> None:
            now = utc_now()
            for copy_id in copies:
                records.write_log(session, origin_id, now, "sandbox forked", forkID=copy_id)
                records.write_log(session, copy_id, now, "made as a fork", originID=origin_id)

        try:
            await self._core.database.run(write)
        except SQLAlchemyError:
            log.exception("the forks of sandbox %s are not in its log", origin_id)

    async def _copy(
        self, identity: Identity, origin: Sandbox, snapshot_id: str, timeout_s: int
    ) -> Sandbox | ControlError:
        try:
            return await self._start_copy(identity, origin, snapshot_id, timeout_s)
        except ControlError as error:
            return error

    async def _start_copy(self, identity: Identity, origin: Sandbox, snapshot_id: str, timeout_s: int) -> Sandbox:
        live = self._sandboxes.reserve(identity, origin.lifecycle, timeout_s)
        spec = SandboxSpec(
            sandbox_id=live.sandbox_id,
            template_id=origin.template_id,
            build_id=origin.build_id,
            access_token=ids.new_secret() if origin.access_token is not None else None,
            env=origin.env_vars,
            network=check_egress(origin.network or {}, origin.allow_internet_access).policy(),
            tenant=identity.team_id,
            snapshot_id=snapshot_id,
        )
        try:
            return await self._sandboxes.launch(
                live, spec, identity, lambda now: records.copied_sandbox(origin, spec, timeout_s, now)
            )
        except (UnknownTemplateBuild, UnknownSnapshot) as error:
            raise SandboxFailedError(f"the fork could not be started: {error}") from error

    async def _keep(self, identity: Identity, live: Live, ref: TemplateRef | None, memory: bool) -> SnapshotView:
        await self._core.database.run(lambda session: snapshotrecords.check_name(session, identity, ref))
        build_id = ids.new_uuid()
        async with self._saved(live, build_id, memory=memory) as info:
            try:
                view = await self._core.database.run(
                    lambda session: snapshotrecords.new_snapshot(session, identity, live.sandbox_id, info, ref)
                )
            except BaseException:
                await self._core.node.remove_snapshot(build_id)
                raise
        self._templates.changed()
        return view
