"""Interpreter services for the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.interpreter.support import Interpreter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.interpreter.support import Client


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    """One service for the tests that need no particular state."""
    interpreter = Interpreter(tmp_path_factory.mktemp("interpreter"))
    interpreter.start()
    yield interpreter
    interpreter.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Interpreter]:
    """A service that a test may break; it preloads nothing."""
    interpreter = Interpreter(tmp_path, PRELOAD="")
    interpreter.start()
    yield interpreter
    interpreter.stop()


@pytest.fixture
async def client(shared: Interpreter) -> AsyncIterator[Client]:
    client = shared.client()
    async with client.http:
        yield client


@pytest.fixture
async def context(client: Client) -> AsyncIterator[str]:
    """A fresh Python context."""
    context = await client.context()
    yield context
    await client.http.delete(f"/contexts/{context}")
