"""Fixtures of the edge's tests. They run on uvloop, as the server does."""

from __future__ import annotations

import asyncio
import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from tests.edge.edge_support import MemoryDirectory, edge_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from sandpit.edge import Edge

_HERE = Path(__file__).parent


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


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: object, **named: object) -> None:
        async with asyncio.timeout(15):
            await test(*args, **named)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time limits from within: uvloop does not let a signal handler stop a waiting loop."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj) and item.path.parent == _HERE:
            item.obj = _bounded(item.obj)
