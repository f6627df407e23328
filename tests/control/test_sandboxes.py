"""What must hold when things happen at the same time, or go wrong half-way."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from tests.api.conftest import api_client

from sandpit.contract.errors import NodeError
from sandpit.control.errors import ConflictError, LimitReachedError, NotFoundError, SandboxFailedError
from sandpit.control.lifecycle import records
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.store.models import Sandbox

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from tests.api.memory_node import MemoryNode

    from sandpit.control.accounts.teams import Identity
    from sandpit.control.app import ControlPlane

NEW = NewSandbox(template="base", timeout=300, secure=True)


@pytest.fixture
async def who(control: ControlPlane) -> Identity:
    return await control.services.keys.authenticate(str(control.first_key))


async def until_idle(control: ControlPlane, node: MemoryNode, count: int) -> list[Sandbox]:
    """The running sandboxes of the store, once the node has `count`."""
    for _ in range(200):
        async with control.database.read() as session:
            rows = list(await session.scalars(select(Sandbox).where(Sandbox.state == "running")))
        if len(node.machine) == len(rows) == count:
            return rows
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(node.machine)} on the node, {len(rows)} in the store, expected {count}")


async def test_a_caller_that_goes_away_leaves_a_tracked_sandbox(
    control: ControlPlane, node: MemoryNode, who: Identity
) -> None:
    node.hold_create = asyncio.Event()
    task = asyncio.create_task(control.services.sandboxes.create(who, NEW))
    await node.creating.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    node.hold_create.set()
    row = (await until_idle(control, node, 1))[0]
    assert control.directory.find(row.id) is not None
    await control.services.sandboxes.kill(who, row.id)


async def test_a_client_that_disconnects_during_create(
    control: ControlPlane, node: MemoryNode, server_url: str
) -> None:
    node.hold_create = asyncio.Event()
    port = int(server_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"templateID": "base"}).encode()
    head = f"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-KEY: {control.first_key}\r\n"
    writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await node.creating.wait()
    writer.transport.abort()
    await asyncio.sleep(0.05)
    node.hold_create.set()
    assert len(await until_idle(control, node, 1)) == 1


async def test_a_store_that_fails_leaves_no_sandbox(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SQLAlchemyError("disk full")

    monkeypatch.setattr(records, "insert_sandbox", refuse)
    with pytest.raises(SQLAlchemyError):
        await control.services.sandboxes.create(who, NEW)
    assert not node.machine
    assert not list(control.services.sandboxes.live)
    assert not list(control.directory.targets())


async def test_team_limit_holds_for_creates_at_once(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    team = await control.services.teams.get(who.team_id)
    team.max_sandboxes = 3
    limited = control.services.teams.identity(team)
    results = await asyncio.gather(
        *(control.services.sandboxes.create(limited, NEW) for _ in range(10)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, LimitReachedError)]
    assert (len(refused), len(node.machine)) == (7, 3)
    made = next(result for result in results if isinstance(result, Sandbox))
    await control.services.sandboxes.kill(limited, made.id)
    await control.services.sandboxes.create(limited, NEW)


async def test_limit_answers_429_without_retry(control: ControlPlane, who: Identity) -> None:
    async with control.database.write() as session:
        team = await session.get_one(type(await control.services.teams.get(who.team_id)), who.team_id)
        team.max_sandboxes = 1
    control.services.keys.forget_all()
    async with api_client(control, control.first_key) as client:
        assert (await client.post("/v2/sandboxes", json={"templateID": "base"})).status_code == 201
        response = await client.post("/v2/sandboxes", json={"templateID": "base"})
        assert (response.status_code, response.json()["code"]) == (429, 429)
        assert response.headers["should-retry"] == "false"


async def test_many_at_once(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    service = control.services.sandboxes
    made = await asyncio.gather(*(service.create(who, NEW) for _ in range(50)))
    assert len({row.id for row in made}) == len(node.machine) == 50
    await asyncio.gather(*(service.kill(who, row.id) for row in made))
    assert await until_idle(control, node, 0) == []
    assert service.live.count(who.team_id) == 0


async def test_only_one_of_two_kills_succeeds(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    service = control.services.sandboxes
    row = await service.create(who, NEW)
    results = await asyncio.gather(*(service.kill(who, row.id) for _ in range(5)), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, NotFoundError) for result in results) == 4
    assert node.killed == [row.id]


async def test_a_kill_that_fails_is_repeated(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandpit.control.lifecycle.ending.KILL_RETRY_SECONDS", 0.05)
    service = control.services.sandboxes
    row = await service.create(who, NEW)
    node.fail_kill = NodeError("stuck")
    with pytest.raises(SandboxFailedError):
        await service.kill(who, row.id)
    assert control.directory.find(row.id) is None
    with pytest.raises(ConflictError):
        await control.services.sleep.connect(who, row.id, 10)
    node.fail_kill = None
    assert await until_idle(control, node, 0) == []


async def test_extending_wins_over_a_timer_that_fires(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    service = control.services.sandboxes
    row = await service.create(who, NEW)
    live = service.live.get(row.id)
    assert live is not None
    control._core._expire(row.id)
    await asyncio.sleep(0.05)
    assert not node.killed
    assert control.directory.find(row.id) is not None


async def test_no_one_lives_longer_than_a_session(control: ControlPlane, who: Identity) -> None:
    service = control.services.sandboxes
    row = await service.create(who, NEW)
    extended, _ = await control.services.sleep.connect(who, row.id, who.max_session_seconds)
    assert (extended.end_at - row.started_at).total_seconds() <= who.max_session_seconds + 0.001


async def test_ends_on_its_own_while_being_started(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, loop = records.insert_sandbox, asyncio.get_running_loop()

    def insert_and_crash(session: Session, sandbox: Sandbox) -> None:
        insert(session, sandbox)
        asyncio.run_coroutine_threadsafe(node.crash(sandbox.id, "out of memory"), loop).result()

    monkeypatch.setattr(records, "insert_sandbox", insert_and_crash)
    with pytest.raises(SandboxFailedError, match="out of memory"):
        await control.services.sandboxes.create(who, NEW)
    assert await until_idle(control, node, 0) == []
