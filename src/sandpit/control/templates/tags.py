"""Tags: names of a template's builds (current-protocol 10.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, select

from sandpit.control.errors import InvalidRequestError, NotFoundError
from sandpit.control.templates.buildrequests import check_tag
from sandpit.control.templates.names import DEFAULT_TAG, parse_ref
from sandpit.control.templates.records import assign_tag
from sandpit.store.models import Build, Snapshot, Template, TemplateName, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from sandpit.control.accounts.teams import Identity
    from sandpit.control.templates.builds import BuildService
    from sandpit.control.templates.cleaning import Cleaner
    from sandpit.control.templates.templates import TemplateService
    from sandpit.store.database import Database


class TagService:
    """Gives and takes tags, and deletes templates."""

    def __init__(self, database: Database, templates: TemplateService, builds: BuildService, cleaner: Cleaner) -> None:
        self._database = database
        self._templates = templates
        self._builds = builds
        self._cleaner = cleaner

    async def assign(self, identity: Identity, target: str, tags: Sequence[str]) -> tuple[list[str], str]:
        """Let more tags mean a build of the team's; returns the tags and the build's id. Raises: InvalidRequestError, NotFoundError."""
        ref = parse_ref(target)
        found = self._checked(tags)
        template = await self._templates.own(identity, _untagged(target))
        source = ref.tag or DEFAULT_TAG

        def write(session: Session) -> str:
            row = session.get(TemplateTag, (template.id, source))
            build = session.get(Build, row.build_id if row is not None else source)
            if build is None or build.template_id != template.id or build.status != "ready":
                raise NotFoundError(f"template '{target[:200]}' has no finished build with the tag '{source}'")
            for tag in found:
                assign_tag(session, template.id, tag, build.id)
            return build.id

        build_id = await self._database.run(write)
        self._templates.changed()
        return found, build_id

    async def remove(self, identity: Identity, name: str, tags: Sequence[str]) -> None:
        """Take tags away; a build without any goes when nothing runs from it. Raises: InvalidRequestError, NotFoundError."""
        found = self._checked(tags)
        if DEFAULT_TAG in found:
            raise InvalidRequestError(
                f"the tag '{DEFAULT_TAG}' cannot be removed: build the template again, or delete it"
            )
        template = await self._templates.own(identity, _untagged(name))

        def write(session: Session) -> None:
            mine = TemplateTag.template_id == template.id
            builds = select(TemplateTag.build_id).where(mine, TemplateTag.tag.in_(found))
            for build in session.scalars(select(Build).where(Build.id.in_(builds))):
                build.updated_at = utc_now()
            session.execute(delete(TemplateTag).where(mine, TemplateTag.tag.in_(found)))

        await self._database.run(write)
        self._templates.changed()

    async def all_of(self, identity: Identity, text: str) -> Sequence[TemplateTag]:
        """All tags of a template, newest first. Raises: NotFoundError."""
        template = await self._templates.own(identity, text)
        query = (
            select(TemplateTag).where(TemplateTag.template_id == template.id).order_by(TemplateTag.created_at.desc())
        )
        return await self._database.run(lambda session: list(session.scalars(query)))

    async def is_snapshot(self, identity: Identity, text: str) -> bool:
        """Whether this names a snapshot of a sandbox, or nothing that the team can delete otherwise."""
        try:
            template = await self._templates.own(identity, _untagged(text))
        except NotFoundError:
            return True
        query = select(exists().where(Snapshot.template_id == template.id))
        return bool(await self._database.run(lambda session: session.scalar(query)))

    async def delete_template(self, identity: Identity, text: str) -> None:
        """Delete a template with its builds. Sandboxes that were made of it go on. Raises: NotFoundError, InvalidRequestError."""
        if parse_ref(text).tag is not None:
            raise InvalidRequestError(
                f"'{text[:200]}' names a build: delete the template by its name, or remove the tag"
            )
        template = await self._templates.own(identity, text)
        query = select(Build.id).where(Build.template_id == template.id)
        await self._builds.cancel_builds(set(await self._database.run(lambda session: list(session.scalars(query)))))

        def write(session: Session) -> None:
            builds = select(Build.id).where(Build.template_id == template.id)
            session.execute(delete(TemplateTag).where(TemplateTag.template_id == template.id))
            session.execute(delete(Build).where(Build.id.in_(builds)))
            session.execute(delete(TemplateName).where(TemplateName.template_id == template.id))
            session.execute(delete(Template).where(Template.id == template.id))

        await self._database.run(write)
        self._templates.changed()
        await self._cleaner.clean()

    def _checked(self, tags: Sequence[str]) -> list[str]:
        found = [tag.strip().lower() for tag in tags]
        if not found:
            raise InvalidRequestError("there are no tags: give at least one")
        for tag in found:
            check_tag(tag)
        return found


def _untagged(text: str) -> str:
    ref = parse_ref(text)
    return f"{ref.namespace}/{ref.name}" if ref.namespace is not None else ref.name
