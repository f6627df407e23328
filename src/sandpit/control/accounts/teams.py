"""Teams, users, and who a caller is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from sandpit.control import ids
from sandpit.control.errors import ConflictError, ForbiddenError, InvalidRequestError, NotFoundError
from sandpit.store.models import Member, Team, User

if TYPE_CHECKING:
    from sandpit.control.settings import Limits
    from sandpit.store.database import Database

DEFAULT_SLUG = "default"
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose behalf a request runs: always a team, and a user when an access token was used."""

    team_id: str
    team_name: str
    slug: str
    max_sandboxes: int
    max_session_seconds: int
    banned: bool = False
    blocked_reason: str | None = None
    user_id: str | None = None
    credential_id: str | None = None
    """The id of the key or access token that was sent; None when authentication is off."""

    def check_may_act(self) -> None:
        """Raises ForbiddenError for a banned team (current-protocol C24)."""
        if self.banned:
            raise ForbiddenError("team is banned")

    def check_may_create(self) -> None:
        """Raises ForbiddenError for a banned or blocked team."""
        self.check_may_act()
        if self.blocked_reason is not None:
            raise ForbiddenError(f"team is blocked: {self.blocked_reason}")


class TeamService:
    """Creates and finds teams and users."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def identity(self, team: Team, user_id: str | None = None, credential_id: str | None = None) -> Identity:
        """What a team may do: its own limits, else the server's."""
        return Identity(
            team_id=team.id,
            team_name=team.name,
            slug=team.slug,
            max_sandboxes=team.max_sandboxes or self._limits.max_sandboxes,
            max_session_seconds=team.max_session_seconds or self._limits.max_session_seconds,
            banned=team.banned,
            blocked_reason=team.blocked_reason,
            user_id=user_id,
            credential_id=credential_id,
        )

    async def create(self, name: str, slug: str | None = None) -> Team:
        """Raises: InvalidRequestError (name or slug), ConflictError (slug taken)."""
        name = name.strip()
        slug = slug if slug is not None else re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
        if not name or len(name) > 200:
            raise InvalidRequestError("a team's name has 1 to 200 characters")
        if not _SLUG.fullmatch(slug):
            raise InvalidRequestError(f"'{slug}' is no slug: use 1 to 64 of a-z, 0-9, '-' and '_'")
        team = Team(id=ids.new_uuid(), name=name, slug=slug)
        async with self._database.write() as session:
            if await session.scalar(select(Team.id).where(Team.slug == slug)):
                raise ConflictError(f"there is a team with the slug '{slug}' already: choose another")
            session.add(team)
        return team

    async def get(self, team_id: str) -> Team:
        """Raises: NotFoundError."""
        async with self._database.read() as session:
            team = await session.get(Team, team_id)
        if team is None:
            raise NotFoundError(f"team '{team_id}' does not exist")
        return team

    async def identity_of(self, team_id: str) -> Identity:
        """Raises: NotFoundError."""
        return self.identity(await self.get(team_id))

    async def find(self, slug: str) -> Team | None:
        async with self._database.read() as session:
            return await session.scalar(select(Team).where(Team.slug == slug))

    async def list_all(self) -> list[Team]:
        """All teams, oldest first (for the operator)."""
        async with self._database.read() as session:
            return list(await session.scalars(select(Team).order_by(Team.created_at, Team.id)))

    async def of_user(self, user_id: str) -> list[tuple[Team, bool]]:
        """A user's teams, the default one first, each with whether it is that."""
        query = (
            select(Team, Member.is_default)
            .join(Member, Member.team_id == Team.id)
            .where(Member.user_id == user_id)
            .order_by(Member.is_default.desc(), Team.created_at, Team.id)
        )
        async with self._database.read() as session:
            return [(team, is_default) for team, is_default in await session.execute(query)]

    async def create_user(self, email: str, team_id: str) -> User:
        """A user of a team, the user's default one. Raises: ConflictError, InvalidRequestError."""
        email = email.strip().lower()
        if not email or len(email) > 320:
            raise InvalidRequestError("a user's e-mail address has 1 to 320 characters")
        user = User(id=ids.new_uuid(), email=email)
        async with self._database.write() as session:
            if await session.scalar(select(User.id).where(User.email == email)):
                raise ConflictError(f"there is a user {email} already")
            session.add(user)
            await session.flush()
            session.add(Member(user_id=user.id, team_id=team_id, is_default=True))
        return user
