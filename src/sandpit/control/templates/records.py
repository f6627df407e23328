"""A template's records: rows, names, builds, tags. Each function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select

from sandpit.control.templates.names import DEFAULT_TAG, PLATFORM, TemplateRef, parse_ref
from sandpit.store.models import Build, Template, TemplateName, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from sandpit.contract.node import TemplateImage
    from sandpit.control.accounts.teams import Identity


@dataclass(slots=True)
class TemplateInfo:
    """A template with everything the API shows of it."""

    template: Template
    build: Build
    """The build of the `default` tag, else the newest."""
    aliases: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    builds: list[Build] = field(default_factory=list)
    """All builds, newest first."""


async def find(session: AsyncSession, ref: TemplateRef, identity: Identity) -> Template | None:
    """By name (the team's own before the platform's), then by id."""
    namespaces = [ref.namespace] if ref.namespace is not None else [identity.slug, PLATFORM]
    query = (
        select(Template)
        .join(TemplateName, TemplateName.template_id == Template.id)
        .where(TemplateName.name == ref.name, TemplateName.namespace.in_(namespaces))
        .order_by(TemplateName.namespace.desc())
        .limit(1)
    )
    if (template := await session.scalar(query)) is not None:
        return template
    return await session.get(Template, ref.name) if ref.namespace is None else None


async def names_of(session: AsyncSession, template_ids: list[str]) -> dict[str, list[tuple[str, str]]]:
    """(namespace, name) by template id, in the order of the names."""
    query = select(TemplateName).where(TemplateName.template_id.in_(template_ids)).order_by(TemplateName.name)
    names: dict[str, list[tuple[str, str]]] = {}
    for row in await session.scalars(query):
        names.setdefault(row.template_id, []).append((row.namespace, row.name))
    return names


async def infos(session: AsyncSession, templates: list[Template]) -> list[TemplateInfo]:
    """Those of the templates that have a build, in their order."""
    wanted = [template.id for template in templates]
    names = await names_of(session, wanted)
    builds: dict[str, list[Build]] = {}
    query = select(Build).where(Build.template_id.in_(wanted)).order_by(Build.created_at.desc(), Build.id)
    for build in await session.scalars(query):
        builds.setdefault(build.template_id, []).append(build)
    tags = select(TemplateTag).where(TemplateTag.template_id.in_(wanted), TemplateTag.tag == DEFAULT_TAG)
    default = {tag.template_id: tag.build_id for tag in await session.scalars(tags)}
    found = []
    for template in templates:
        own = builds.get(template.id)
        if not own:
            continue
        current = next((build for build in own if build.id == default.get(template.id)), own[0])
        pairs = names.get(template.id, [])
        shown = [f"{namespace}/{name}" if namespace else name for namespace, name in pairs]
        found.append(TemplateInfo(template, current, [name for _, name in pairs], shown, own))
    return found


async def register(session: AsyncSession, image: TemplateImage, team_id: str | None, namespace: str) -> None:
    """Write down a build that a node can start, unless it is known."""
    now = utc_now()
    if await session.get(Template, image.template_id) is None:
        session.add(
            Template(id=image.template_id, team_id=team_id, public=team_id is None, created_at=now, updated_at=now)
        )
        await session.flush()
    refs = [parse_ref(name) for name in image.names]
    for ref in refs:
        if await session.get(TemplateName, (namespace, ref.name)) is None:
            session.add(TemplateName(namespace=namespace, name=ref.name, template_id=image.template_id))
            await session.flush()
    if await session.get(Build, image.build_id) is not None:
        return
    session.add(
        Build(
            id=image.build_id,
            template_id=image.template_id,
            status="ready",
            cpu_count=image.cpu_count,
            memory_mb=image.memory_mb,
            disk_mb=image.disk_mb,
            runtime=image.runtime,
            created_at=now,
            updated_at=now,
            finished_at=now,
        )
    )
    await session.flush()
    for tag in {ref.tag or DEFAULT_TAG for ref in refs} or {DEFAULT_TAG}:
        await session.run_sync(assign_tag, image.template_id, tag, image.build_id)


def assign_tag(session: Session, template_id: str, tag: str, build_id: str) -> None:
    """Let `template:tag` mean this build; the newest assignment wins (current-protocol 10.4)."""
    row = session.get(TemplateTag, (template_id, tag))
    if row is None:
        session.add(TemplateTag(template_id=template_id, tag=tag, build_id=build_id, created_at=utc_now()))
    else:
        row.build_id, row.created_at = build_id, utc_now()
    session.flush()
