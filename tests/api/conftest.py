"""A control plane over a node in memory, and clients for its API."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from tests.api.memory_node import MemoryNode

from sandpit.api.app import create_app
from sandpit.control.app import ControlPlane
from sandpit.server.settings import Settings
from sandpit.store.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with its tables: making them takes longer than most tests."""
    path = tmp_path_factory.mktemp("store") / "sandpit.db"

    async def make() -> None:
        database = Database(f"sqlite+aiosqlite:///{path}")
        await database.open()
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(migrated, data_dir / "sandpit.db")
    return Settings(data_dir=data_dir, run_dir=tmp_path / "run", metrics_interval=0.05)


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
async def control(settings: Settings, node: MemoryNode) -> AsyncIterator[ControlPlane]:
    async with ControlPlane(settings, node) as control:
        yield control


@asynccontextmanager
async def api_client(control: ControlPlane, key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(control), raise_app_exceptions=False)
    headers = {} if key is None else {"X-API-KEY": key}
    async with httpx.AsyncClient(transport=transport, base_url="http://sandpit", headers=headers) as client:
        yield client


@pytest.fixture
async def client(control: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    """The default team's client."""
    async with api_client(control, control.first_key) as client:
        yield client


@pytest.fixture
async def stranger(control: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    """Another team's client."""
    team = await control.services.teams.create("Strangers")
    _, key = await control.services.keys.create(team.id, "key")
    async with api_client(control, key) as client:
        yield client


@pytest.fixture
async def server_url(control: ControlPlane) -> AsyncIterator[str]:
    """The API behind a real HTTP server on a free port."""
    config = uvicorn.Config(create_app(control), host="127.0.0.1", port=0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task
