"""The connection to the records: opening, migrating, reading and writing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import StaticPool, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

T = TypeVar("T")
SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000")


class Database:
    """The store. `read()` and `write()` give sessions; rows stay usable after their session has ended.

    SQLite must be a file: it is opened twice, for sessions and for `run()`.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        # Errors go into the log, and parameters are what requests hold: environment variables, for instance.
        self._engine = create_async_engine(self._url, hide_parameters=True)
        if self._sqlite:
            event.listen(self._engine.sync_engine, "connect", _set_pragmas)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._thread: ThreadPoolExecutor | None = None
        if self._sqlite:
            self._thread = ThreadPoolExecutor(1, "sandpit-store")
            # One thread, but not always the same one: close() comes from another.
            sync_engine = create_engine(
                self._url.set(drivername="sqlite"),
                poolclass=StaticPool,
                connect_args={"check_same_thread": False},
                hide_parameters=True,
            )
            event.listen(sync_engine, "connect", _set_pragmas)
            self._sync_sessions = sessionmaker(sync_engine, expire_on_commit=False)
            self._sync_engine = sync_engine
        # SQLite has one writer: queueing here is fair and wakes at once, its own busy handler polls.
        self._writer = asyncio.Lock()

    async def open(self) -> Self:
        """Create the database when there is none and bring its tables up to date: all migrations in one transaction, or none."""
        if self._sqlite and self._url.database:
            await asyncio.to_thread(_private_file, Path(self._url.database))
        async with self._engine.begin() as connection:
            if self._sqlite:
                # Python's driver begins a transaction before changes of rows only, and would keep each change of a table for itself.
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            await connection.run_sync(migrate)
        return self

    async def close(self) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)
            self._sync_engine.dispose()
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

    async def run(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one transaction, as a whole: for what requests wait for.

        With SQLite, every statement of an `AsyncSession` changes threads several times, which costs milliseconds on a
        busy machine; this changes threads once.
        """
        if self._thread is None:
            async with self._sessions.begin() as session:
                return await session.run_sync(work)
        async with self._writer:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    def _transact(self, work: Callable[[Session], T]) -> T:
        with self._sync_sessions.begin() as session:
            return work(session)


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to `revision`. The migrations are package data, so this works from an installed wheel."""
    config = Config()
    config.set_main_option("script_location", "sandpit.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _private_file(path: Path) -> None:
    # The records hold the agents' tokens: only the server's user may read them.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    path.touch(mode=0o600, exist_ok=True)


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
