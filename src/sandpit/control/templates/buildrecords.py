"""Writing a template build's records: rows, tags, log. Each function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, insert, select

from sandpit.contract.builder import BuildFailed
from sandpit.control import ids
from sandpit.control.errors import InvalidRequestError
from sandpit.control.templates.records import assign_tag
from sandpit.store.models import Build, BuildLog, Snapshot, Template, TemplateName
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from sandpit.contract.builder import BuildSpec
    from sandpit.contract.node import TemplateImage
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.templates.buildrequests import NewBuild
    from sandpit.control.templates.names import TemplateRef

_LOG_COLUMNS = ("build_id", "number", "timestamp", "level", "step", "message")


@dataclass(frozen=True, slots=True)
class Requested:
    """A build that waits for its start."""

    template: Template
    build: Build
    name: str
    names: list[str]


def new_build(session: Session, identity: Identity, ref: TemplateRef, tags: list[str], new: NewBuild) -> Requested:
    """The rows of a build that waits. Raises: InvalidRequestError."""
    now = utc_now()
    named = session.get(TemplateName, (identity.slug, ref.name))
    template = session.get(Template, named.template_id) if named is not None else _by_id(session, identity, ref)
    if template is None:
        template = Template(
            id=ids.template_id(), team_id=identity.team_id, public=False, created_at=now, updated_at=now
        )
        session.add(template)
        session.flush()
        session.add(TemplateName(namespace=identity.slug, name=ref.name, template_id=template.id))
    elif session.scalar(select(exists().where(Snapshot.template_id == template.id))):
        raise InvalidRequestError(
            f"'{ref.name}' is the name of a snapshot of yours: choose another one for the template"
        )
    assert new.cpu_count is not None
    assert new.memory_mb is not None
    build = Build(
        id=ids.new_uuid(),
        template_id=template.id,
        status="waiting",
        cpu_count=new.cpu_count,
        memory_mb=new.memory_mb,
        disk_mb=0,
        runtime="",
        tags=tags,
        created_at=now,
        updated_at=now,
    )
    session.add(build)
    session.flush()
    names = session.scalars(select(TemplateName.name).where(TemplateName.template_id == template.id)).all()
    return Requested(template, build, ref.name, [f"{identity.slug}/{name}" for name in names])


def _by_id(session: Session, identity: Identity, ref: TemplateRef) -> Template | None:
    """A template that the caller names by its id."""
    template = session.get(Template, ref.name) if ref.namespace is None else None
    return template if template is not None and template.team_id == identity.team_id else None


def begin_build(session: Session, build_id: str) -> tuple[str, tuple[int, int]]:
    """Mark as building; returns the template's name, vCPUs and MiB. Raises: InvalidRequestError."""
    build = session.get_one(Build, build_id)
    if build.status != "waiting":
        raise InvalidRequestError("build is not in waiting state")
    build.status, build.updated_at = "building", utc_now()
    name = session.scalar(select(func.min(TemplateName.name)).where(TemplateName.template_id == build.template_id))
    return name or build.template_id, (build.cpu_count, build.memory_mb)


def finish_build(session: Session, spec: BuildSpec, outcome: TemplateImage | BuildFailed) -> bool:
    """Write down how a build ended; False when its template is gone. Only one that is ready takes its tags from others."""
    build = session.get(Build, spec.build_id)
    if build is None:
        return False
    now = utc_now()
    build.updated_at = build.finished_at = now
    if isinstance(outcome, BuildFailed):
        build.status, build.reason = "error", {"message": outcome.message, "step": outcome.step}
        return True
    build.status, build.disk_mb, build.runtime = "ready", outcome.disk_mb, outcome.runtime
    build.cpu_count, build.memory_mb = outcome.cpu_count, outcome.memory_mb
    for tag in build.tags or ():
        assign_tag(session, build.template_id, tag, build.id)
    session.get_one(Template, build.template_id).updated_at = now
    return True


def write_lines(session: Session, build_id: str, lines: Sequence[BuildLog]) -> None:
    """Add to a build's log, unless the build was deleted."""
    if session.get(Build, build_id) is not None:
        rows = [{name: getattr(line, name) for name in _LOG_COLUMNS} for line in lines]
        session.execute(insert(BuildLog), rows)
