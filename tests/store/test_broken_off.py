"""A process that is killed at any statement of a migration: the next one opens the database, with all that was in it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import traceback
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from sandpit.store import database
from sandpit.store.database import Database, migrate

if TYPE_CHECKING:
    from pathlib import Path


_STATEMENTS = {None: 54, "0001": 20}
"""How many an opening runs, from its pragmas to the commit; each one was tried once."""


def head() -> str:
    config = Config()
    config.set_main_option("script_location", "sandpit.store:migrations")
    config.set_main_option("path_separator", "os")
    revision = ScriptDirectory.from_config(config).get_current_head()
    assert revision is not None
    return revision


async def open_and_close(path: Path) -> None:
    made = Database(f"sqlite+aiosqlite:///{path}")
    try:
        await made.open()
    finally:
        await made.close()


def opened_in_a_process(path: Path, statements: int) -> bool:
    """Open it in a process that dies before that statement; whether it did."""
    pid = os.fork()
    if pid == 0:
        left, connect = statements, sqlite3.connect

        def count(_: str) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_trace_callback(count)
            return connection

        try:
            sqlite3.connect = connected  # type: ignore[assignment]
            asyncio.run(open_and_close(path))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - this process must not go on as the test
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


@pytest.mark.parametrize("revision", [None, "0001"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_any_statement(tmp_path: Path, revision: str | None) -> None:
    path = tmp_path / "sandpit.db"
    dice = random.Random(seed := random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    kills = 0
    for number in sorted(dice.sample(range(6, _STATEMENTS[revision]), 6)):
        for file in tmp_path.iterdir():
            file.unlink()
        if revision is not None:
            earlier_release(path, revision)
        kills += opened_in_a_process(path, number)
        assert not opened_in_a_process(path, 1 << 30)
        with closing(sqlite3.connect(path)) as records:
            assert records.execute("SELECT version_num FROM alembic_version").fetchall() == [(head(),)]
            assert records.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if revision is not None:
                assert records.execute("SELECT slug FROM teams").fetchall() == [("kept",)]
    assert kills >= 5


def earlier_release(path: Path, revision: str) -> None:
    """A database that an earlier release of Sandpit made, with a team in it."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate(connection, revision)
        connection.exec_driver_sql(
            "INSERT INTO teams (id, name, slug, banned, created_at) VALUES ('t', 'Kept', 'kept', 0, '2026-01-01 00:00:00')"
        )
    engine.dispose()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_its_end(connection: Any) -> None:
        migrate(connection)
        raise OSError("no space")

    monkeypatch.setattr(database, "migrate", fail_at_its_end)
    path = tmp_path / "sandpit.db"
    with pytest.raises(OSError, match="no space"):
        asyncio.run(open_and_close(path))
    with closing(sqlite3.connect(path)) as records:
        assert records.execute("SELECT name FROM sqlite_master").fetchall() == []
