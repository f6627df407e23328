"""A snapshot's records: a build of a template, its tag, and what is found by them. Each function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, func, select

from sandpit.control import ids
from sandpit.control.cursors import decode_cursor
from sandpit.control.errors import ForbiddenError, InvalidRequestError, NotFoundError
from sandpit.control.lifecycle import records
from sandpit.control.templates.names import DEFAULT_TAG, PLATFORM, TemplateRef, parse_ref
from sandpit.control.templates.records import assign_tag
from sandpit.store.models import Build, Sandbox, Snapshot, Template, TemplateName, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from sandpit.contract.node import SnapshotInfo
    from sandpit.control.accounts.teams import Identity


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A snapshot as callers name it: `snapshot_id` can be used as a template."""

    snapshot_id: str
    names: list[str]
    row: Snapshot


def check_name(session: Session, identity: Identity, ref: TemplateRef | None) -> None:
    """A name that is taken must be that of snapshots. Raises: InvalidRequestError."""
    if ref is None or (row := session.get(TemplateName, (identity.slug, ref.name))) is None:
        return
    if not session.scalar(select(exists().where(Snapshot.template_id == row.template_id))):
        raise InvalidRequestError(f"'{ref.name}' is a template of yours: choose another name for the snapshot")


def new_snapshot(
    session: Session, identity: Identity, sandbox_id: str, info: SnapshotInfo, ref: TemplateRef | None
) -> SnapshotView:
    """The rows of a snapshot: a template for it or its name, a build, a tag."""
    now = utc_now()
    origin = session.get_one(Sandbox, sandbox_id)
    template_id = _template_for(session, identity, ref, now)
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
    made = view(session, row, identity.slug)
    # As the caller gets it: who reads the log can start from it. The build's id finds it when the tag has moved on.
    records.write_log(session, sandbox_id, now, "snapshot taken", snapshotID=made.snapshot_id, buildID=row.build_id)
    return made


def _template_for(session: Session, identity: Identity, ref: TemplateRef | None, now: datetime) -> str:
    """The id of the template that has the snapshot's name, else of a new one."""
    named = session.get(TemplateName, (identity.slug, ref.name)) if ref is not None else None
    if named is not None:
        return named.template_id
    template_id = ids.template_id()
    session.add(Template(id=template_id, team_id=identity.team_id, public=False, created_at=now, updated_at=now))
    session.flush()
    if ref is not None:
        session.add(TemplateName(namespace=identity.slug, name=ref.name, template_id=template_id))
    return template_id


def view(session: Session, row: Snapshot, slug: str) -> SnapshotView:
    """An earlier build of a tag that has moved on is named by its build id: every snapshot stays reachable."""
    current = session.scalar(
        select(TemplateTag.build_id).where(TemplateTag.template_id == row.template_id, TemplateTag.tag == row.tag)
    )
    tag = row.tag if current == row.build_id else row.build_id
    aliases = session.scalars(select(TemplateName.name).where(TemplateName.template_id == row.template_id)).all()
    names = [f"{slug}/{alias}:{tag}" for alias in aliases]
    return SnapshotView(names[0] if names else f"{row.template_id}:{tag}", names, row)


def delete_snapshots(session: Session, identity: Identity, ref: TemplateRef, text: str) -> list[str]:
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
    """Snapshots that a tag stands for: the one it is at, or the one whose build id it is (see `view`)."""
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


def listing(identity: Identity, sandbox_id: str | None, name: str | None, next_token: str | None) -> Select[Snapshot]:
    """A team's snapshots, newest first, from a token on. Raises: InvalidRequestError."""
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
    return query.order_by(Snapshot.created_at.desc(), Snapshot.build_id.desc())
