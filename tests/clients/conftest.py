"""The official clients, unmodified, pointed at a real server as users point them: by three variables."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.flavours import create, flavour, home, sandbox, shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live

__all__ = ["create", "flavour", "home", "sandbox", "shared"]


@pytest.fixture(scope="session")
def clients(live: Live) -> Iterator[dict[str, str]]:
    """The three variables, also set in this process: the Python clients read them at each call."""
    before = {name: os.environ.pop(name, None) for name in ("E2B_DEBUG", "E2B_DOMAIN", *live.clients)}
    os.environ |= live.clients
    yield live.clients
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.official_client)
            if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
                # The async clients keep their connections by event loop.
                item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
