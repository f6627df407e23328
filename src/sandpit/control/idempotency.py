"""`Idempotency-Key`: the same create twice makes one sandbox (current-protocol 2.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from sandpit.control.errors import ConflictError, IdempotencyMismatchError, InvalidRequestError
from sandpit.store.models import IdempotencyKey

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.store.database import Database

KEPT_SECONDS = 24 * 3600
_KEY = re.compile(r"[a-z0-9-]{1,255}")


class IdempotencyService:
    """Remembers which sandbox a key made."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: set[tuple[str, str]] = set()
        """Keys whose request runs: a row that says so alone is what could not be written down at its end."""

    async def begin(self, team_id: str, key: str, fingerprint: str) -> str | None:
        """Claim a key: None to go on, or the id of the sandbox that it made before.

        Raises: InvalidRequestError, IdempotencyMismatchError (other body), ConflictError (running, or unknown outcome).
        """
        if not _KEY.fullmatch(key):
            raise InvalidRequestError("Idempotency-Key has 1 to 255 characters from a-z, 0-9 and '-'")
        if (team_id, key) in self._running:
            return await self._earlier(team_id, key, fingerprint)
        self._running.add(
            (team_id, key)
        )  # before its row is there: nobody may take that for one of a request that is over
        try:
            async with self._database.write() as session:
                session.add(IdempotencyKey(team_id=team_id, key=key, fingerprint=fingerprint, state="running"))
        except IntegrityError:
            self.end(team_id, key)
            return await self._earlier(team_id, key, fingerprint)
        except BaseException:
            self.end(team_id, key)
            raise
        return None

    def end(self, team_id: str, key: str) -> None:
        """The request that claimed the key is over, however it ended."""
        self._running.discard((team_id, key))

    async def _earlier(self, team_id: str, key: str, fingerprint: str) -> str | None:
        async with self._database.read() as session:
            row = await session.get(IdempotencyKey, (team_id, key))
        if row is not None and row.fingerprint != fingerprint:
            raise IdempotencyMismatchError(
                "this Idempotency-Key was used with another request: use a new key",
                error_code="idempotency_request_mismatch",
            )
        if row is None or (row.state == "running" and (team_id, key) in self._running):
            raise ConflictError(
                "the request with this Idempotency-Key is still running: repeat it later",
                error_code="idempotency_request_in_progress",
            )
        if row.state != "done":
            raise ConflictError(
                "how the request with this Idempotency-Key ended is not known: list the sandboxes, then use a new key",
                error_code="idempotency_outcome_unknown",
            )
        return row.sandbox_id

    async def abandon(self, team_id: str, key: str) -> None:
        """The request failed and left nothing: the key is free again."""
        async with self._database.write() as session:
            await session.execute(
                delete(IdempotencyKey).where(IdempotencyKey.team_id == team_id, IdempotencyKey.key == key)
            )

    async def recover(self) -> None:
        """At start: whatever was running when the last process ended has an unknown outcome."""
        async with self._database.write() as session:
            await session.execute(
                update(IdempotencyKey).where(IdempotencyKey.state == "running").values(state="unknown")
            )


def finish(session: Session, team_id: str, key: str, sandbox_id: str) -> None:
    """Write down what a key made, in the transaction that writes the sandbox."""
    query = update(IdempotencyKey).where(IdempotencyKey.team_id == team_id, IdempotencyKey.key == key)
    session.execute(query.values(state="done", sandbox_id=sandbox_id))
