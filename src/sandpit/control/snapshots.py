"""Copies of running sandboxes: forks, which run at once, and snapshots, which are kept as builds of a template."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select
from sqlalchemy.exc import SQLAlchemyError

from sandpit.control import ids, records
from sandpit.control.core import Core, not_found
from sandpit.control.cursors import MAX_PAGE, decode_cursor, encode_cursor
from sandpit.control.errors import (
    ControlError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    SandboxFailedError,
)
from sandpit.control.network import check_egress
from sandpit.control.requests import check_timeout
from sandpit.control.templates import DEFAULT_TAG, PLATFORM, TemplateRef, assign_tag, parse_ref
from sandpit.node.contract import (
    NodeError,
    SandboxSpec,
    UnknownSandbox,
    UnknownSnapshot,
    UnknownTemplateBuild,
)
from sandpit.store.models import Build, Sandbox, Snapshot, Template, TemplateName, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from sandpit.control.live import Live
    from sandpit.control.quota import SnapshotQuota
    from sandpit.control.sandboxes import SandboxService
    from sandpit.control.teams import Identity
    from sandpit.control.templates import TemplateService
    from sandpit.node.contract import SnapshotInfo

log = logging.getLogger(__name__)
MAX_FORKS = 100


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A snapshot as callers name it: `snapshot_id` can be used as a template."""

    snapshot_id: str
    names: list[str]
    row: Snapshot


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
        query = select(Snapshot).where(Snapshot.team_id == identity.team_id)
        if sandbox_id is not None:
            query = query.where(Snapshot.sandbox_id == sandbox_id)
        if name is not None:
            ref = parse_ref(name)
            named = exists().where(
                TemplateName.template_id == Snapshot.template_id,
                TemplateName.namespace == (ref.namespace or identity.slug),
                TemplateName.name == ref.name,
            )
            query = query.where(named if ref.namespace else named | (Snapshot.template_id == ref.name))
            if ref.tag is not None:
                query = query.where(_tagged(ref.tag))
        if next_token:
            created, build_id = decode_cursor(next_token, ascending=False)
            same = (Snapshot.created_at == created) & (Snapshot.build_id < build_id)
            query = query.where((Snapshot.created_at < created) | same)
        query = query.order_by(Snapshot.created_at.desc(), Snapshot.build_id.desc()).limit(limit + 1)
        views = await self._core.database.run(
            lambda session: [_view(session, row, identity.slug) for row in list(session.scalars(query))]
        )
        more = views[limit - 1].row if len(views) > limit else None
        return views[:limit], encode_cursor(more.created_at, more.build_id, False) if more else None

    async def delete(self, identity: Identity, text: str) -> None:
        """Delete a snapshot by its id, or all of a template id without a tag.

        Raises: NotFoundError; InvalidRequestError while sandboxes made of it are there; ForbiddenError for other templates.
        """
        ref = parse_ref(text)
        doomed = await self._core.database.run(lambda session: _delete(session, identity, ref, text))
        self._templates.changed()
        for build_id in doomed:
            await self._core.node.remove_snapshot(build_id)

    async def _hold_and_save(self, live: Live, snapshot_id: str, *, memory: bool) -> SnapshotInfo:
        """Raises: NotFoundError, ConflictError, LimitReachedError, BusyError, SandboxFailedError; the sandbox goes on in any case."""
        await self._quota.check(live.team_id)
        async with live.lock:
            self._core.check_running(live)
            await self._core.announce_snapshot(live)
            self._core.directory.hold(live.sandbox_id)
            try:
                return await self._core.node.snapshot(live.sandbox_id, snapshot_id, memory=memory, end=False)
            except UnknownSandbox as error:
                raise not_found(live.sandbox_id) from error
            except NodeError as error:
                raise SandboxFailedError(
                    f"sandbox '{live.sandbox_id}' could not be copied, it runs on: {error}"
                ) from error
            finally:
                self._core.directory.release(live.sandbox_id)

    async def _fork(
        self, identity: Identity, live: Live, count: int, timeout_s: int
    ) -> Sequence[Sandbox | ControlError]:
        origin = await self._core.database.run(lambda session: session.get_one(Sandbox, live.sandbox_id))
        snapshot_id = ids.new_uuid()
        await self._hold_and_save(live, snapshot_id, memory=True)
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
        await self._core.database.run(lambda session: _check_name(session, identity, ref))
        build_id = ids.new_uuid()
        info = await self._hold_and_save(live, build_id, memory=memory)
        try:
            view = await self._core.database.run(lambda session: _record(session, identity, live.sandbox_id, info, ref))
        except BaseException:
            await self._core.node.remove_snapshot(build_id)
            raise
        self._templates.changed()
        return view


def _check_name(session: Session, identity: Identity, ref: TemplateRef | None) -> None:
    """A name that is taken must be that of snapshots. Raises: InvalidRequestError."""
    if ref is None or (row := session.get(TemplateName, (identity.slug, ref.name))) is None:
        return
    if not session.scalar(select(exists().where(Snapshot.template_id == row.template_id))):
        raise InvalidRequestError(f"'{ref.name}' is a template of yours: choose another name for the snapshot")


def _record(
    session: Session, identity: Identity, sandbox_id: str, info: SnapshotInfo, ref: TemplateRef | None
) -> SnapshotView:
    """The rows of a snapshot: a template for it or its name, a build, a tag."""
    now = utc_now()
    origin = session.get_one(Sandbox, sandbox_id)
    named = session.get(TemplateName, (identity.slug, ref.name)) if ref is not None else None
    template_id = named.template_id if named is not None else ids.template_id()
    if named is None:
        session.add(Template(id=template_id, team_id=identity.team_id, public=False, created_at=now, updated_at=now))
        session.flush()
        if ref is not None:
            session.add(TemplateName(namespace=identity.slug, name=ref.name, template_id=template_id))
    runtime = session.scalar(select(Build.runtime).where(Build.id == info.build_id)) or ""
    session.add(
        Build(
            id=info.snapshot_id,
            template_id=template_id,
            status="ready",
            cpu_count=origin.cpu_count,
            memory_mb=origin.memory_mb,
            disk_mb=origin.disk_mb,
            runtime=runtime,
            base_build_id=info.build_id,
            created_at=now,
            updated_at=now,
            finished_at=now,
        )
    )
    session.flush()
    tag = (ref.tag if ref is not None else None) or DEFAULT_TAG
    assign_tag(session, template_id, tag, info.snapshot_id)
    row = Snapshot(
        build_id=info.snapshot_id,
        team_id=identity.team_id,
        template_id=template_id,
        tag=tag,
        sandbox_id=sandbox_id,
        memory=info.memory,
        size=info.size,
        created_at=now,
    )
    session.add(row)
    session.flush()
    records.write_log(session, sandbox_id, now, "snapshot taken", snapshotID=info.snapshot_id)
    return _view(session, row, identity.slug)


def _view(session: Session, row: Snapshot, slug: str) -> SnapshotView:
    """An earlier build of a tag that has moved on is named by its build id: every snapshot stays reachable."""
    current = session.scalar(
        select(TemplateTag.build_id).where(TemplateTag.template_id == row.template_id, TemplateTag.tag == row.tag)
    )
    tag = row.tag if current == row.build_id else row.build_id
    aliases = session.scalars(select(TemplateName.name).where(TemplateName.template_id == row.template_id)).all()
    names = [f"{slug}/{alias}:{tag}" for alias in aliases]
    return SnapshotView(names[0] if names else f"{row.template_id}:{tag}", names, row)


def _delete(session: Session, identity: Identity, ref: TemplateRef, text: str) -> list[str]:
    """Delete the rows; returns the snapshots to remove. Raises: NotFoundError, InvalidRequestError, ForbiddenError."""
    template_id = _own_template(session, identity, ref, text)
    query = select(Snapshot).where(Snapshot.template_id == template_id, Snapshot.team_id == identity.team_id)
    if ref.tag is not None:
        query = query.where(_tagged(ref.tag))
    builds = [row.build_id for row in session.scalars(query)]
    if not builds:
        raise NotFoundError(f"snapshot '{text}' not found")
    in_use = session.scalar(
        select(func.count()).select_from(Sandbox).where(Sandbox.build_id.in_(builds), Sandbox.state != "ended")
    )
    if in_use:
        raise InvalidRequestError(f"snapshot '{text}' is in use by {in_use} sandboxes: kill them first")
    for table in (TemplateTag.build_id, Snapshot.build_id, Build.id):
        session.execute(delete(table.class_).where(table.in_(builds)))
    if not session.scalar(select(exists().where(Build.template_id == template_id))):
        session.execute(delete(TemplateName).where(TemplateName.template_id == template_id))
        session.execute(delete(Template).where(Template.id == template_id))
    return builds


def _tagged(tag: str) -> ColumnElement[bool]:
    """Snapshots that a tag stands for: the one it is at, or the one whose build id it is (see `_view`)."""
    current = exists().where(
        TemplateTag.template_id == Snapshot.template_id,
        TemplateTag.tag == tag,
        TemplateTag.build_id == Snapshot.build_id,
    )
    return current | (Snapshot.build_id == tag)


def _own_template(session: Session, identity: Identity, ref: TemplateRef, text: str) -> str:
    named = session.get(TemplateName, (ref.namespace or identity.slug, ref.name))
    if named is None and ref.namespace is None:
        named = session.get(TemplateName, (PLATFORM, ref.name))
    if named is not None:
        template = session.get(Template, named.template_id)
    else:
        template = session.get(Template, ref.name) if ref.namespace is None else None
    if template is None or (template.team_id is not None and template.team_id != identity.team_id):
        raise NotFoundError(f"template '{text}' not found")
    if template.team_id is None or not session.scalar(select(exists().where(Snapshot.template_id == template.id))):
        raise ForbiddenError(f"'{text}' is no snapshot: it came with the server, and only the operator can remove it")
    return template.id
