"""API keys and access tokens: making, checking, revoking. Only digests are stored; a raw key is seen once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from sandpit.control import ids
from sandpit.control.errors import InvalidRequestError, NotFoundError, UnauthorizedError
from sandpit.store.models import AccessToken, ApiKey, Member, Team
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select

    from sandpit.control.accounts.teams import Identity, TeamService
    from sandpit.store.database import Database

CACHE_SECONDS = 5.0
"""How long another process's revocation may take to be seen; this process's is seen at once."""
CACHE_SIZE = 10_000
_INVALID = "Invalid API key: it is unknown or was revoked. Check E2B_API_KEY."


@dataclass(frozen=True, slots=True)
class _Cached:
    identity: Identity
    row_id: str
    until: float


class KeyService:
    """Finds who a secret belongs to, by the secret's SHA-256: how long that takes says nothing about other secrets."""

    def __init__(self, database: Database, teams: TeamService) -> None:
        self._database = database
        self._teams = teams
        self._cache: dict[str, _Cached] = {}
        self._revocations = 0
        """How often something became worthless: an answer of the store that is older than the last time is not used."""
        self._used: dict[str, datetime] = {}

    async def authenticate(self, raw: str) -> Identity:
        """Who an API key (`e2b_...`) acts for. Raises: UnauthorizedError."""
        query = select(ApiKey, Team).join(Team, Team.id == ApiKey.team_id).where(ApiKey.digest == ids.digest(raw))
        found = await self._look_up(raw, query)
        if found is None:
            raise UnauthorizedError(_INVALID)
        self._used[found.row_id] = utc_now()
        return found.identity

    async def authenticate_token(self, raw: str) -> Identity:
        """Who a user's access token (`sk_e2b_...`) acts for: the default team. Raises: UnauthorizedError."""
        query = (
            select(AccessToken, Team)
            .join(Member, Member.user_id == AccessToken.user_id)
            .join(Team, Team.id == Member.team_id)
            .where(AccessToken.digest == ids.digest(raw))
            .order_by(Member.is_default.desc(), Team.created_at)
            .limit(1)
        )
        found = await self._look_up(raw, query)
        if found is None:
            raise UnauthorizedError("Invalid access token: it is unknown, was revoked, or its user has no team.")
        return found.identity

    async def _look_up(self, raw: str, query: Select[ApiKey, Team] | Select[AccessToken, Team]) -> _Cached | None:
        """From memory, else from the store: what the store says now, not what it said when a revocation was under way."""
        digest = ids.digest(raw)
        cached = self._cache.get(digest)
        if cached is not None and cached.until > time.monotonic():
            return cached
        while True:
            seen = self._revocations
            async with self._database.read() as session:
                found = (await session.execute(query)).first()
            if seen == self._revocations:
                break  # else something was revoked meanwhile, and this may be what it was before
        if found is None:
            return None
        row, team = found
        user_id = row.user_id if isinstance(row, AccessToken) else None
        return self._remember(digest, self._teams.identity(team, user_id, row.id), row.id)

    async def is_valid(self, credential_id: str, team_id: str) -> bool:
        """Whether a key or token, by its id, still acts for a team: for links that were made for one who had it."""
        team = (Team.id == team_id, Team.banned.is_(False))
        by_key = select(ApiKey.id).join(Team, Team.id == ApiKey.team_id).where(ApiKey.id == credential_id, *team)
        by_token = (
            select(AccessToken.id)
            .join(Member, Member.user_id == AccessToken.user_id)
            .join(Team, Team.id == Member.team_id)
            .where(AccessToken.id == credential_id, *team)
        )
        async with self._database.read() as session:
            return await session.scalar(by_key) is not None or await session.scalar(by_token) is not None

    async def create(
        self, team_id: str, name: str, created_by: str | None = None, *, raw: str | None = None
    ) -> tuple[ApiKey, str]:
        """A new key and its raw text (`raw`, if one has been made), which nobody can read again. Raises: InvalidRequestError (name)."""
        name = _checked_name(name)
        raw = raw if raw is not None else ids.api_key()
        start = len(ids.KEY_PREFIX)
        key = ApiKey(
            id=ids.new_uuid(),
            team_id=team_id,
            created_by=created_by,
            name=name,
            digest=ids.digest(raw),
            shown_prefix=raw[start : start + 2],
            shown_suffix=raw[-4:],
            created_at=utc_now(),
        )
        async with self._database.write() as session:
            session.add(key)
        return key, raw

    async def list_of(self, team_id: str) -> list[ApiKey]:
        """A team's keys, oldest first."""
        query = select(ApiKey).where(ApiKey.team_id == team_id).order_by(ApiKey.created_at, ApiKey.id)
        async with self._database.read() as session:
            return list(await session.scalars(query))

    async def rename(self, team_id: str, key_id: str, name: str) -> ApiKey:
        """Raises: NotFoundError, InvalidRequestError."""
        name = _checked_name(name)
        async with self._database.write() as session:
            key = await session.get(ApiKey, key_id)
            if key is None or key.team_id != team_id:
                raise NotFoundError(f"API key '{key_id}' does not exist")
            key.name = name
        return key

    async def revoke(self, team_id: str, key_id: str) -> None:
        """Make a key worthless, at once. Raises: NotFoundError."""
        query = delete(ApiKey).where(ApiKey.id == key_id, ApiKey.team_id == team_id).returning(ApiKey.id)
        async with self._database.write() as session:
            gone = (await session.execute(query)).first()
        self._revoked(key_id)
        if gone is None:
            raise NotFoundError(f"API key '{key_id}' does not exist")

    async def create_token(self, user_id: str, name: str) -> tuple[AccessToken, str]:
        """A new access token of a user, and its raw text. Raises: InvalidRequestError (name)."""
        name = _checked_name(name)
        raw = ids.access_token()
        start = len(ids.TOKEN_PREFIX)
        token = AccessToken(
            id=ids.new_uuid(),
            user_id=user_id,
            name=name,
            digest=ids.digest(raw),
            shown_prefix=raw[start : start + 2],
            shown_suffix=raw[-4:],
            created_at=utc_now(),
        )
        async with self._database.write() as session:
            session.add(token)
        return token, raw

    async def revoke_token(self, user_id: str, token_id: str) -> None:
        """Raises: NotFoundError."""
        query = delete(AccessToken).where(AccessToken.id == token_id, AccessToken.user_id == user_id)
        async with self._database.write() as session:
            gone = (await session.execute(query.returning(AccessToken.id))).first()
        self._revoked(token_id)
        if gone is None:
            raise NotFoundError(f"access token '{token_id}' does not exist")

    def forget_all(self) -> None:
        """Teams or keys were changed behind this service's back: look all of them up anew."""
        self._revocations += 1
        self._cache.clear()

    async def flush_last_used(self) -> None:
        """Write down when keys were last used; called now and then, so that requests need not."""
        used, self._used = self._used, {}
        if not used:
            return
        async with self._database.write() as session:
            for key_id, when in used.items():
                await session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=when))

    def _remember(self, digest: str, identity: Identity, row_id: str) -> _Cached:
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        found = self._cache[digest] = _Cached(identity, row_id, time.monotonic() + CACHE_SECONDS)
        return found

    def _revoked(self, row_id: str) -> None:
        """Called when the store has forgotten it. Look-ups that are under way begin again."""
        self._revocations += 1
        for digest in [digest for digest, cached in self._cache.items() if cached.row_id == row_id]:
            del self._cache[digest]


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidRequestError("a key's name has 1 to 200 printable characters")
    return name
