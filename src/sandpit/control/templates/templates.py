"""Templates: which builds there are, and which one a caller means by a name."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, or_, select, update

from sandpit.control.cursors import decode_cursor, encode_cursor
from sandpit.control.errors import ForbiddenError, InvalidRequestError, NotFoundError
from sandpit.control.limits import MAX_PAGE
from sandpit.control.templates import records as templaterecords
from sandpit.control.templates.names import DEFAULT_TAG, PLATFORM, parse_ref
from sandpit.store.models import Build, Snapshot, Template, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement

    from sandpit.contract.node import TemplateImage
    from sandpit.control.accounts.teams import Identity
    from sandpit.control.templates.records import TemplateInfo
    from sandpit.store.database import Database

CACHE_SECONDS = 5.0
"""How long another process's change may take to be seen; this process's are seen at once."""
CACHE_SIZE = 1000


@dataclass(frozen=True, slots=True)
class Resolved:
    """A build that can be started, and the name to show for it."""

    template: Template
    build: Build
    alias: str | None


class TemplateService:
    """Registers and resolves templates. A team sees its own templates and the public ones."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._resolved: dict[tuple[str, str], tuple[float, Resolved]] = {}
        self._changes = 0
        self._spawned: Counter[str] = Counter()

    def changed(self) -> None:
        """Names, tags or builds have changed: resolve them anew."""
        self._changes += 1
        self._resolved.clear()

    def spawned(self, template_id: str) -> None:
        """A sandbox has started; written down by `flush_spawned`, so that a create need not."""
        self._spawned[template_id] += 1

    async def flush_spawned(self) -> None:
        """Write down how often templates were started."""
        spawned, self._spawned = self._spawned, Counter()
        if not spawned:
            return
        async with self._database.write() as session:
            for template_id, count in spawned.items():
                values = {"spawn_count": Template.spawn_count + count, "last_spawned_at": utc_now()}
                await session.execute(update(Template).where(Template.id == template_id).values(values))

    async def register(
        self, images: Iterable[TemplateImage], *, team_id: str | None = None, namespace: str = PLATFORM
    ) -> None:
        """Write down builds that a node can start. Known builds keep their tags; a new one becomes the default."""
        async with self._database.write() as session:
            for image in images:
                await templaterecords.register(session, image, team_id, namespace)
        self.changed()

    async def resolve(self, identity: Identity, text: str) -> Resolved:
        """The build that `text` names for this team. Raises: InvalidRequestError, NotFoundError."""
        known = self._resolved.get((identity.team_id, text))
        if known is not None and known[0] > time.monotonic():
            return known[1]
        while True:
            seen = self._changes
            resolved = await self._resolve(identity, text)
            if seen == self._changes:
                break  # else it may be what a name meant, or was open to, before the change
        if len(self._resolved) >= CACHE_SIZE:
            self._resolved.clear()
        self._resolved[identity.team_id, text] = (time.monotonic() + CACHE_SECONDS, resolved)
        return resolved

    async def _resolve(self, identity: Identity, text: str) -> Resolved:
        ref = parse_ref(text)
        async with self._database.read() as session:
            template = await templaterecords.find(session, ref, identity)
            if template is None or not _visible(template, identity):
                raise NotFoundError(f"template '{text}' not found")
            tag = ref.tag or DEFAULT_TAG
            query = (
                select(Build)
                .join(TemplateTag, TemplateTag.build_id == Build.id)
                .where(TemplateTag.template_id == template.id, TemplateTag.tag == tag)
            )
            build = await session.scalar(query)
            if build is None and ref.tag is not None:
                build = await session.scalar(select(Build).where(Build.id == tag, Build.template_id == template.id))
            if build is None or build.status != "ready":
                raise NotFoundError(f"template '{text}' has no finished build with the tag '{tag}'")
            names = await templaterecords.names_of(session, [template.id])
        aliases = [name for _, name in names.get(template.id, [])]
        alias = ref.name if ref.name in aliases else next(iter(aliases), None)
        return Resolved(template, build, alias)

    async def find_id(self, identity: Identity, text: str) -> str | None:
        """The id behind a name or id without a tag, None when unknown to this team. Raises: InvalidRequestError."""
        ref = parse_ref(text)
        if ref.tag is not None:
            raise InvalidRequestError(f"template '{text}' has a tag: sandboxes are found by template, without a tag")
        async with self._database.read() as session:
            template = await templaterecords.find(session, ref, identity)
        return template.id if template is not None and _visible(template, identity) else None

    async def by_alias(self, identity: Identity, alias: str) -> Template:
        """Raises: NotFoundError, also for others': the protocol's 403 (current-protocol 10.4) would tell what they have."""
        async with self._database.read() as session:
            template = await templaterecords.find(session, parse_ref(alias), identity)
        if template is None or not _visible(template, identity):
            raise NotFoundError(f"template alias '{alias}' not found")
        return template

    async def own(self, identity: Identity, text: str) -> Template:
        """A team's own template, by id or name without a tag. Raises: NotFoundError (also for others'), InvalidRequestError."""
        ref = parse_ref(text)
        async with self._database.read() as session:
            template = await templaterecords.find(session, ref, identity)
        if template is None or template.team_id != identity.team_id or ref.tag is not None:
            raise NotFoundError(f"template '{text[:200]}' not found")
        return template

    async def set_public(self, identity: Identity, text: str, public: bool) -> list[str]:
        """Publish a template, or take it back; returns its full names.

        Raises: NotFoundError; ForbiddenError (another team's) where the caller may know that it exists: it is public, or named by its id,
        which nobody can guess (current-protocol C139).
        """
        ref = parse_ref(text)
        async with self._database.read() as session:
            template = await templaterecords.find(session, ref, identity)
        if template is None or not (_visible(template, identity) or template.id == ref.name):
            raise NotFoundError(f"template '{text[:200]}' not found")
        if template.team_id != identity.team_id:
            raise ForbiddenError(f"template '{text[:200]}' does not belong to your team")
        async with self._database.write() as session:
            values = {"public": public, "updated_at": utc_now()}
            await session.execute(update(Template).where(Template.id == template.id).values(values))
            names = await templaterecords.names_of(session, [template.id])
        self.changed()
        return [f"{namespace}/{name}" for namespace, name in names.get(template.id, [])]

    async def get(self, identity: Identity, text: str) -> TemplateInfo:
        """One template by id or name. Raises: NotFoundError, InvalidRequestError."""
        async with self._database.read() as session:
            template = await templaterecords.find(session, parse_ref(text), identity)
            if template is None or not _visible(template, identity):
                raise NotFoundError(f"template '{text}' not found")
            infos = await templaterecords.infos(session, [template])
        if not infos:
            raise NotFoundError(f"template '{text}' has no build")
        return infos[0]

    async def list_of(self, identity: Identity) -> list[TemplateInfo]:
        """A team's templates and the platform's, newest first; snapshots of sandboxes have a list of their own."""
        query = (
            select(Template)
            .where(or_(Template.team_id == identity.team_id, Template.team_id.is_(None)), ~_is_snapshot())
            .order_by(Template.created_at.desc(), Template.id.desc())
        )
        async with self._database.read() as session:
            return await templaterecords.infos(session, list(await session.scalars(query)))

    async def page(
        self, identity: Identity, limit: int | None, next_token: str | None
    ) -> tuple[list[TemplateInfo], str | None]:
        """A page of `list_of` and the token of the next one, None on the last. Raises: InvalidRequestError."""
        limit = MAX_PAGE if limit is None else limit
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequestError(f"limit must be from 1 to {MAX_PAGE}, got {limit}")
        infos = await self.list_of(identity)
        if next_token is not None:
            after = decode_cursor(next_token, ascending=False)
            infos = [info for info in infos if (info.template.created_at, info.template.id) < after]
        items = infos[:limit]
        if len(infos) == len(items):
            return items, None
        last = items[-1].template
        return items, encode_cursor(last.created_at, last.id, ascending=False)


def _is_snapshot() -> ColumnElement[bool]:
    return exists().where(Snapshot.template_id == Template.id)


def _visible(template: Template, identity: Identity) -> bool:
    return template.public or template.team_id == identity.team_id
