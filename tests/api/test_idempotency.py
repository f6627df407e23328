"""`Idempotency-Key` on create (current-protocol 2.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError
from tests.api.conftest import api_client
from tests.api.memory_node import MemoryNode

from sandpit.contract.errors import NodeError
from sandpit.control.app import ControlPlane
from sandpit.store.models import IdempotencyKey

if TYPE_CHECKING:
    import httpx

    from sandpit.server.settings import Settings

KEY = {"Idempotency-Key": "a-1"}
BODY = {"templateID": "base", "metadata": {"a": "b"}}


async def test_same_key_same_body_is_one_sandbox(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, node: MemoryNode
) -> None:
    first = await client.post("/v2/sandboxes", json=BODY, headers=KEY)
    again = await client.post("/v2/sandboxes", json=BODY, headers=KEY)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(node.machine) == 1
    other = await client.post("/v2/sandboxes", json=BODY | {"timeout": 5}, headers=KEY)
    assert (other.status_code, other.json()["error_code"]) == (422, "idempotency_request_mismatch")
    assert (await stranger.post("/v2/sandboxes", json=BODY, headers=KEY)).json() != first.json()
    assert len(node.machine) == 2


async def test_running_request_is_a_conflict(client: httpx.AsyncClient, node: MemoryNode) -> None:
    node.hold_create = asyncio.Event()
    first = asyncio.create_task(client.post("/v2/sandboxes", json=BODY, headers=KEY))
    await node.creating.wait()
    second = await client.post("/v2/sandboxes", json=BODY, headers=KEY)
    assert (second.status_code, second.json()["error_code"]) == (409, "idempotency_request_in_progress")
    node.hold_create.set()
    assert (await first).status_code == 201


async def test_failed_request_frees_its_key(client: httpx.AsyncClient, node: MemoryNode) -> None:
    node.fail_create = NodeError("broken")
    assert (await client.post("/v2/sandboxes", json=BODY, headers=KEY)).status_code == 500
    node.fail_create = None
    assert (await client.post("/v2/sandboxes", json=BODY, headers=KEY)).status_code == 201


async def test_outcome_is_unknown_after_a_crash(settings: Settings) -> None:
    async with ControlPlane(settings, MemoryNode()) as control, api_client(control, control.first_key) as client:
        key = str(control.first_key)
        await client.post("/v2/sandboxes", json=BODY, headers=KEY)
        team_id = (await control.services.keys.authenticate(key)).team_id
        async with control.database.write() as session:
            (await session.get_one(IdempotencyKey, (team_id, "a-1"))).state = "running"
    async with ControlPlane(settings, MemoryNode()) as control, api_client(control, key) as client:
        response = await client.post("/v2/sandboxes", json=BODY, headers=KEY)
        assert (response.status_code, response.json()["error_code"]) == (409, "idempotency_outcome_unknown")


async def test_bad_keys(client: httpx.AsyncClient) -> None:
    for key in ("", "UPPER", "a b", "x" * 256, "a_b"):
        response = await client.post("/v2/sandboxes", json=BODY, headers={"Idempotency-Key": key})
        assert response.status_code == 400, key


async def test_a_key_that_could_not_be_freed_is_not_said_to_be_running(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller would wait until the row is a day old."""

    async def fail(*_: object) -> None:
        raise OperationalError("DELETE", {}, Exception("disk I/O error"))

    monkeypatch.setattr(control._idempotency, "abandon", fail)
    node.fail_create = NodeError("broken")
    assert (await client.post("/v2/sandboxes", json=BODY, headers=KEY)).status_code == 500
    again = await client.post("/v2/sandboxes", json=BODY, headers=KEY)
    assert (again.status_code, again.json()["error_code"]) == (409, "idempotency_outcome_unknown")
