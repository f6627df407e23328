"""The connection to the records: opening, migrating, reading and writing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker, create_async_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000")


class Database:
    """The store. `read()` and `write()` give sessions; rows stay usable after their session has ended."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = create_async_engine(self._url)
        if self._sqlite:
            event.listen(self._engine.sync_engine, "connect", _set_pragmas)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        # SQLite has one writer: queueing here is fair and wakes at once, its own busy handler polls.
        self._writer = asyncio.Lock()

    async def open(self) -> Self:
        """Create the database when there is none and bring its tables up to date."""
        if self._sqlite and self._url.database:
            await asyncio.to_thread(_private_file, Path(self._url.database))
        async with self._engine.begin() as connection:
            await connection.run_sync(migrate)
        return self

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for queries."""
        async with self._sessions() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed at the end, rolled back on an exception."""
        if not self._sqlite:
            async with self._sessions.begin() as session:
                yield session
            return
        async with self._writer, self._sessions.begin() as session:
            yield session

    @asynccontextmanager
    async def write_plain(self) -> AsyncIterator[AsyncConnection]:
        """As `write()`, but a bare connection: half the cost, for what is on the way of a create."""
        if not self._sqlite:
            async with self._engine.begin() as connection:
                yield connection
            return
        async with self._writer, self._engine.begin() as connection:
            yield connection


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to `revision`. The migrations are package data, so this works from an installed wheel."""
    config = Config()
    config.set_main_option("script_location", "sandpit.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _private_file(path: Path) -> None:
    # The records hold the agents' tokens: only the server's user may read them.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
