"""Fixtures of the edge's tests. They run on uvloop, as the server does."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from edge_support import MemoryDirectory, edge_for

from sandpit.edge import Edge


def pytest_asyncio_loop_factories(config: object, item: object) -> Mapping[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def directory() -> MemoryDirectory:
    return MemoryDirectory()


@pytest.fixture
async def edge(directory: MemoryDirectory) -> AsyncIterator[Edge]:
    directory.add()
    async with edge_for(directory) as running:
        yield running
