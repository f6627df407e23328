"""The store: migrations, portability, what SQLite is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.schema import CreateTable

from sandpit.store.database import Database
from sandpit.store.models import ApiKey, Base, Team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

_POSTGRESQL = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'sandpit.db'}")
    await database.open()
    yield database
    await database.close()


def differences(connection: Connection) -> list[object]:
    return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


async def test_migrations_make_exactly_the_models(database: Database) -> None:
    assert await database.run(lambda session: differences(session.connection())) == []


async def test_opening_again_changes_nothing(database: Database) -> None:
    async with database.write() as session:
        session.add(Team(id="t", name="T", slug="t"))
    await database.open()
    async with database.read() as session:
        assert (await session.get_one(Team, "t")).name == "T"


async def test_sqlite_settings(database: Database) -> None:
    async with database.read() as session:
        found = [
            await session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys", "synchronous")
        ]
    assert found == ["wal", 1, 1]


async def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            session.add(ApiKey(id="k", team_id="nobody", name="n", digest="d", shown_prefix="", shown_suffix=""))


async def test_times_are_aware_and_exact(database: Database) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
    async with database.write() as session:
        session.add(Team(id="t", name="T", slug="t", created_at=when))
    async with database.read() as session:
        found = (await session.get_one(Team, "t")).created_at
    assert found == when
    assert found.tzinfo is UTC
    with pytest.raises(StatementError):
        async with database.write() as session:
            session.add(Team(id="u", name="U", slug="u", created_at=when.replace(tzinfo=None)))


async def test_a_failed_run_is_rolled_back(database: Database) -> None:
    def fail(session: Session) -> None:
        session.add(Team(id="t", name="T", slug="t"))
        session.flush()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.run(fail)
    async with database.read() as session:
        assert await session.get(Team, "t") is None


async def test_both_ways_of_writing_at_once(database: Database) -> None:
    async def slowly(number: int) -> None:
        async with database.write() as session:
            session.add(Team(id=f"a{number}", name="T", slug=f"a{number}"))

    async def at_once(number: int) -> None:
        await database.run(lambda session: session.add(Team(id=f"b{number}", name="T", slug=f"b{number}")))

    await asyncio.gather(*(way(number) for number in range(20) for way in (slowly, at_once)))
    assert await database.run(lambda session: session.scalar(select(func.count()).select_from(Team))) == 40


async def test_a_failed_write_is_rolled_back(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as session:
            session.add(Team(id="t", name="T", slug="t"))
            await session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with database.read() as session:
        assert await session.get(Team, "t") is None


def test_the_tables_are_valid_for_postgresql() -> None:
    statements = [str(CreateTable(table).compile(dialect=_POSTGRESQL)) for table in Base.metadata.sorted_tables]
    assert any("TIMESTAMP WITH TIME ZONE" in statement for statement in statements)
    assert any("BIGSERIAL" in statement for statement in statements)
