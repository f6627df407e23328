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

    from sandpit.control.teams import Identity, TeamService
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
        self._used: dict[str, datetime] = {}

    async def authenticate(self, raw: str) -> Identity:
        """Who an API key (`e2b_...`) acts for. Raises: UnauthorizedError."""
        digest = ids.digest(raw)
        if cached := self._cached(digest):
            self._used[cached.row_id] = utc_now()
            return cached.identity
        query = select(ApiKey, Team).join(Team, Team.id == ApiKey.team_id).where(ApiKey.digest == digest)
        async with self._database.read() as session:
            found = (await session.execute(query)).first()
        if found is None:
            raise UnauthorizedError(_INVALID)
        key, team = found
        identity = self._teams.identity(team)
        self._remember(digest, identity, key.id)
        self._used[key.id] = utc_now()
        return identity

    async def authenticate_token(self, raw: str) -> Identity:
        """Who a user's access token (`sk_e2b_...`) acts for: the default team. Raises: UnauthorizedError."""
        digest = ids.digest(raw)
        if cached := self._cached(digest):
            return cached.identity
        query = (
            select(AccessToken, Team)
            .join(Member, Member.user_id == AccessToken.user_id)
            .join(Team, Team.id == Member.team_id)
            .where(AccessToken.digest == digest)
            .order_by(Member.is_default.desc(), Team.created_at)
            .limit(1)
        )
        async with self._database.read() as session:
            found = (await session.execute(query)).first()
        if found is None:
            raise UnauthorizedError("Invalid access token: it is unknown, was revoked, or its user has no team.")
        token, team = found
        identity = self._teams.identity(team, token.user_id)
        self._remember(digest, identity, token.id)
        return identity

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
        self._forget(key_id)
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
        self._forget(token_id)
        if gone is None:
            raise NotFoundError(f"access token '{token_id}' does not exist")

    def forget_all(self) -> None:
        """Teams or keys were changed behind this service's back: look all of them up anew."""
        self._cache.clear()

    async def flush_last_used(self) -> None:
        """Write down when keys were last used; called now and then, so that requests need not."""
        used, self._used = self._used, {}
        if not used:
            return
        async with self._database.write() as session:
            for key_id, when in used.items():
                await session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=when))

    def _cached(self, digest: str) -> _Cached | None:
        cached = self._cache.get(digest)
        return cached if cached is not None and cached.until > time.monotonic() else None

    def _remember(self, digest: str, identity: Identity, row_id: str) -> None:
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = _Cached(identity, row_id, time.monotonic() + CACHE_SECONDS)

    def _forget(self, row_id: str) -> None:
        for digest in [digest for digest, cached in self._cache.items() if cached.row_id == row_id]:
            del self._cache[digest]


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidRequestError("a key's name has 1 to 200 printable characters")
    return name
