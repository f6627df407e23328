"""A kill waits for nobody: what is being done with the sandbox is interrupted, fails and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from tests.api.test_lifecycle import create
from tests.api.test_pause import AUTO, paused, post

from sandpit.contract.directory import WakeRefusedError
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.store.models import Sandbox

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode

    from sandpit.contract.node import RunningSandbox, SandboxSpec
    from sandpit.control.app import ControlPlane


async def nothing_is_left(client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode) -> None:
    assert (node.machine, node.kept, (await client.get("/v2/sandboxes")).json()) == ({}, {}, [])
    async with control.database.read() as session:
        assert {row.state for row in await session.scalars(select(Sandbox))} <= {"ended"}
    live = control.services.sandboxes.live
    assert not list(live)
    assert live._places._held == {}
    assert not control._core.expiry._deadlines


@pytest.mark.parametrize(
    ("action", "body"), [("pause", {}), ("pause", {"memory": False}), ("snapshots", {}), ("fork", {"count": 2})]
)
async def test_while_it_is_saved(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, action: str, body: dict[str, object]
) -> None:
    """The snapshot is never whole: who waits for it waits for ever."""
    sandbox_id = (await create(client))["sandboxID"]
    node.hold_snapshot = asyncio.Event()
    saving = asyncio.create_task(post(client, sandbox_id, action, body))
    await node.saving.wait()
    connecting = asyncio.create_task(post(client, sandbox_id, "connect", {"timeout": 10}))
    requesting = asyncio.create_task(control.directory.wake(sandbox_id))
    await asyncio.sleep(0)
    assert (await client.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    answer = await saving
    assert (answer.status_code, "was killed" in answer.json()["message"]) == (404, True)
    assert (await connecting).status_code in (404, 409)
    assert await requesting is None
    assert node.killed[0] == sandbox_id
    await nothing_is_left(client, control, node)


@pytest.mark.parametrize("how", ["connect", "resume", "request"])
async def test_while_it_is_resumed(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, how: str
) -> None:
    sandbox_id = await paused(client, **AUTO)
    node.hold_create = asyncio.Event()
    node.creating.clear()
    if how == "request":
        waking = asyncio.create_task(control.directory.wake(sandbox_id))
    else:
        resuming = asyncio.create_task(post(client, sandbox_id, how, {"timeout": 10}))
    await node.creating.wait()
    assert (await client.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    if how == "request":
        with pytest.raises(WakeRefusedError) as refused:
            await waking
        assert refused.value.status == 404
    else:
        assert (await resuming).status_code == 404
    await nothing_is_left(client, control, node)


async def test_a_start_that_cannot_be_interrupted_in_time(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node hands a sandbox out although its resume was interrupted: it is killed once more."""
    sandbox_id = await paused(client)
    begin, create_on_node = asyncio.Event(), node.create

    async def stubborn(spec: SandboxSpec) -> RunningSandbox:
        begin.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return await create_on_node(spec)

    monkeypatch.setattr(node, "create", stubborn)
    resuming = asyncio.create_task(post(client, sandbox_id, "connect", {"timeout": 10}))
    await begin.wait()
    assert (await client.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    assert (await resuming).status_code == 404
    await nothing_is_left(client, control, node)


async def test_all_are_ended_while_some_start(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    """What a stopping server does: those that are being started end as well, and no more start."""
    await create(client)
    node.hold_create = asyncio.Event()
    node.creating.clear()
    starting = asyncio.create_task(client.post("/v2/sandboxes", json={"templateID": "base"}))
    await node.creating.wait()
    await control.services.sandboxes.kill_all("the end")
    assert (await starting).status_code == 404
    assert (await client.post("/v2/sandboxes", json={"templateID": "base"})).status_code == 503
    await nothing_is_left(client, control, node)


async def test_two_kills_and_a_timeout_at_once(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    live = control._core.live.get(sandbox_id)
    assert live is not None
    node.hold_snapshot = asyncio.Event()
    pausing = asyncio.create_task(post(client, sandbox_id, "pause"))
    await node.saving.wait()
    live.deadline = control._core.expiry.now() - 1
    control._core._expire(sandbox_id)
    kills = [asyncio.create_task(client.delete(f"/sandboxes/{sandbox_id}")) for _ in range(2)]
    assert sorted([(await kill).status_code for kill in kills]) == [204, 404]
    assert (await pausing).status_code == 404
    await nothing_is_left(client, control, node)


async def test_a_fork_goes_on_without_its_origin(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    """The copies are others' sandboxes already when their origin is killed."""
    who = await control.services.keys.authenticate(str(control.first_key))
    origin = await control.services.sandboxes.create(who, NewSandbox(template="base", timeout=300, secure=True))
    node.hold_create = asyncio.Event()
    node.creating.clear()
    forking = asyncio.create_task(post(client, origin.id, "fork", {"count": 2}))
    await node.creating.wait()
    assert (await client.delete(f"/sandboxes/{origin.id}")).status_code == 204
    node.hold_create.set()
    answer = await forking
    assert (answer.status_code, len(node.machine)) == (201, 2)
    assert not node.kept
