"""Forks and snapshots (current-protocol 3.7, 11.4)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.api.conftest import api_client
from tests.api.memory_node import BASE
from tests.api.test_lifecycle import create, detail, lifetime
from tests.api.test_pause import UNKNOWN, paused, post, state

from sandpit.contract.errors import NodeError
from sandpit.control.app import ControlPlane

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode

    from sandpit.server.settings import Settings


async def take(client: httpx.AsyncClient, sandbox_id: str, **body: object) -> dict[str, Any]:
    response = await post(client, sandbox_id, "snapshots", body)
    assert response.status_code == 201, response.text
    taken: dict[str, Any] = response.json()
    assert set(taken) == {"snapshotID", "names"}
    return taken


async def listed(client: httpx.AsyncClient, query: str = "") -> list[str]:
    response = await client.get(f"/snapshots?{query}")
    assert response.status_code == 200, response.text
    return [item["snapshotID"] for item in response.json()]


async def delete(client: httpx.AsyncClient, snapshot_id: str) -> int:
    return (await client.delete(f"/templates/{snapshot_id.replace('/', '%2F')}")).status_code


async def test_fork(client: httpx.AsyncClient, node: MemoryNode) -> None:
    network = {"allowPublicTraffic": False, "denyOut": ["8.8.8.8"]}
    made = await create(client, metadata={"k": "v"}, envVars={"A": "1"}, network=network)
    response = await post(client, made["sandboxID"], "fork", {"count": 3, "timeout": 60})
    assert response.status_code == 201
    forks = [entry["sandbox"] for entry in response.json()]
    family = [made, *forks]
    for name in ("sandboxID", "envdAccessToken", "trafficAccessToken"):
        assert len({member[name] for member in family}) == 4, name
    for fork in forks:
        assert set(fork) == set(made)
        spec = node.machine[fork["sandboxID"]]
        assert (spec.env, spec.access_token, spec.resumed) == ({"A": "1"}, fork["envdAccessToken"], False)
        assert spec.network == node.machine[made["sandboxID"]].network
        shown = await detail(client, fork["sandboxID"])
        assert (shown["metadata"], lifetime(shown)) == ({"k": "v"}, 60)
    assert not node.kept, "what they were copied from is no longer needed"
    alone = (await client.post(f"/sandboxes/{made['sandboxID']}/fork")).json()
    assert lifetime(await detail(client, alone[0]["sandbox"]["sandboxID"])) == 15


async def test_forks_and_snapshots_that_are_refused(client: httpx.AsyncClient) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    asleep = await paused(client)
    wrong: list[tuple[str, str, object, int]] = [
        *((sandbox_id, "fork", {"count": count}, 400) for count in (0, -1, 101, "1", 1.5)),
        *((sandbox_id, "fork", {"timeout": timeout}, 400) for timeout in (0, -1, 10**9)),
        *((sandbox_id, "snapshots", {"name": name}, 400) for name in ("", "no name", "a/b/c", "base:", 5)),
        (sandbox_id, "snapshots", {"name": "others/name"}, 403),
        *((asleep, action, {}, 409) for action in ("fork", "snapshots")),
        *((UNKNOWN, action, {}, 404) for action in ("fork", "snapshots")),
    ]
    for target, action, body, status in wrong:
        response = await post(client, target, action, body)
        assert (response.status_code, response.json()["code"]) == (status, status), (action, body)
    assert await listed(client) == []
    assert await state(client, sandbox_id) == "running"


async def test_forks_beyond_the_limit_say_so(settings: Settings, node: MemoryNode) -> None:
    limits = settings.limits.model_copy(update={"max_sandboxes": 3})
    async with (
        ControlPlane(settings.model_copy(update={"limits": limits}), node) as control,
        api_client(control, control.first_key) as client,
    ):
        made = await create(client)
        results = (await post(client, made["sandboxID"], "fork", {"count": 4})).json()
        assert sum("sandbox" in entry for entry in results) == 2
        errors = [entry["error"] for entry in results if "error" in entry]
        assert [error["code"] for error in errors] == [429, 429]
        assert all(error["message"] for error in errors)
        assert len(node.machine) == 3
        assert not node.kept


async def test_a_copy_that_fails_leaves_the_sandbox_running(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    node.fail_snapshot = NodeError("disk full")
    for action in ("fork", "snapshots"):
        response = await post(client, sandbox_id, action)
        assert (response.status_code, "disk full" in response.json()["message"]) == (500, True)
        target = control.directory.find(sandbox_id)
        assert target is not None
        assert target.state == "running"
    node.fail_snapshot, node.fail_create = None, NodeError("broken")
    (entry,) = (await post(client, sandbox_id, "fork")).json()
    assert (entry["error"]["code"], "broken" in entry["error"]["message"]) == (500, True)
    assert list(node.machine) == [sandbox_id]
    assert not node.kept


async def test_its_requests_wait_while_it_is_copied(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    node.hold_snapshot = asyncio.Event()
    copy = asyncio.create_task(post(client, sandbox_id, "snapshots"))
    await node.saving.wait()
    waiting = asyncio.create_task(control.directory.wake(sandbox_id))
    assert await state(client, sandbox_id) == "running"
    assert not waiting.done()
    node.hold_snapshot.set()
    assert (await copy).status_code == 201
    target = await waiting
    assert target is not None
    assert target.state == "running"
    assert (await client.delete(f"/sandboxes/{sandbox_id}")).status_code == 204
    assert len(await listed(client)) == 1, "a snapshot outlives its sandbox"


@pytest.mark.parametrize("memory", [True, False])
async def test_sandboxes_of_a_snapshot(client: httpx.AsyncClient, node: MemoryNode, memory: bool) -> None:
    """And snapshots, forks and pauses of those, and so on."""
    snapshot_id, made = "base", {}
    for _ in range(3):
        made = await create(client, templateID=snapshot_id, timeout=100)
        assert node.machine[made["sandboxID"]].build_id == BASE.build_id
        snapshot_id = (await take(client, made["sandboxID"], memory=memory))["snapshotID"]
        assert snapshot_id.endswith(":default")
    assert (await post(client, made["sandboxID"], "fork")).status_code == 201
    assert (await post(client, made["sandboxID"], "pause")).status_code == 204
    assert (await post(client, made["sandboxID"], "connect", {"timeout": 10})).status_code == 201
    assert [info.memory for info in node.snapshots()] == [memory] * 3


async def test_the_log_names_a_snapshot_as_its_caller_does(client: httpx.AsyncClient) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    taken = [
        (await take(client, sandbox_id))["snapshotID"],
        (await take(client, sandbox_id, name="kept:v1"))["snapshotID"],
    ]
    for path in ("/sandboxes", "/v2/sandboxes"):
        lines = (await client.get(f"{path}/{sandbox_id}/logs")).json()
        entries = lines.get("logEntries") or lines["logs"]
        found = [entry["fields"] for entry in entries if entry["message"] == "snapshot taken"]
        assert [fields["snapshotID"] for fields in found] == taken
    for snapshot_id in taken:
        await create(client, template=snapshot_id)
        assert (await client.delete(f"/templates/{snapshot_id.replace('/', '%2F')}")).status_code in (204, 400)


async def test_names(client: httpx.AsyncClient, control: ControlPlane) -> None:
    slug = (await control.services.keys.authenticate(str(control.first_key))).slug
    sandbox_id = (await create(client))["sandboxID"]
    first = await take(client, sandbox_id, name="kept")
    assert first == {"snapshotID": f"{slug}/kept:default", "names": [f"{slug}/kept:default"]}
    tagged = await take(client, sandbox_id, name=f"{slug}/kept:v2")
    assert tagged["names"] == [f"{slug}/kept:v2"]
    newer = await take(client, sandbox_id, name="kept")
    assert newer == first
    assert (await take(client, sandbox_id, name="base"))["names"] == [f"{slug}/base:default"], (
        "a name of the team's own"
    )
    assert (await create(client))["templateID"] != BASE.template_id, "which comes before the platform's"
    assert await listed(client, "name=kept:default") == [first["snapshotID"]]
    everything = await listed(client, "name=kept")
    assert len(set(everything)) == 3, "the one that the name has left stays reachable"
    for snapshot_id in everything:
        assert await listed(client, f"name={snapshot_id}") == [snapshot_id]
        assert (await client.post("/v2/sandboxes", json={"templateID": snapshot_id})).status_code == 201


async def test_list(client: httpx.AsyncClient) -> None:
    one, two = (await create(client))["sandboxID"], (await create(client))["sandboxID"]
    taken = [(await take(client, sandbox_id, name=name))["snapshotID"]
             for sandbox_id, name in ((one, "a"), (two, "b:v1"), (one, "b:v2"))]  # fmt: skip
    bare = await take(client, two)
    newest_first = [bare["snapshotID"], *reversed(taken)]
    assert bare["names"] == []
    assert await listed(client) == newest_first
    assert await listed(client, f"sandboxID={one}") == [taken[2], taken[0]]
    assert await listed(client, f"sandboxID={one}&name=a") == [taken[0]]
    assert await listed(client, "name=b") == [taken[2], taken[1]]
    assert await listed(client, "name=b:v1") == [taken[1]]
    assert await listed(client, f"name={bare['snapshotID']}") == [bare["snapshotID"]]
    assert await listed(client, "name=default/a") == [taken[0]]
    for nobodys in ("name=none", "name=others/a", "name=b:v3", f"sandboxID={UNKNOWN}", "sandboxID=.."):
        assert await listed(client, nobodys) == [], nobodys
    found, token = [], ""
    for _ in range(2):
        response = await client.get(f"/snapshots?limit=2&nextToken={token}")
        found += [item["snapshotID"] for item in response.json()]
        token = response.headers.get("X-Next-Token", "")
    assert (found, token) == (newest_first, "")
    for bad in ("limit=0", "limit=101", "limit=x", "nextToken=nonsense", "name=a b"):
        assert (await client.get(f"/snapshots?{bad}")).status_code == 400, bad


async def test_delete(client: httpx.AsyncClient, node: MemoryNode) -> None:
    source = (await create(client))["sandboxID"]
    snapshot_id = (await take(client, source, name="kept"))["snapshotID"]
    copy = (await create(client, templateID=snapshot_id))["sandboxID"]
    refused = await client.delete(f"/templates/{snapshot_id.replace('/', '%2F')}")
    assert (refused.status_code, refused.json()["code"]) == (400, 400)
    await post(client, copy, "pause")
    assert await delete(client, snapshot_id) == 400, "a paused one depends on it too"
    await client.delete(f"/sandboxes/{copy}")
    assert await delete(client, snapshot_id) == 204
    assert await delete(client, snapshot_id) == 404
    assert (node.kept, await listed(client)) == ({}, [])
    assert (await client.post("/v2/sandboxes", json={"templateID": snapshot_id})).status_code == 404
    assert (await client.post("/v2/sandboxes", json={"templateID": "kept"})).status_code == 404
    assert "kept" not in (await client.get("/templates")).text
    await take(client, source, name="kept:v1")
    await take(client, source, name="kept:v2")
    assert await delete(client, "kept:v1") == 204
    assert len(await listed(client)) == 1
    assert await delete(client, "kept") == 204
    assert await listed(client) == []


async def test_what_is_no_snapshot_stays(client: httpx.AsyncClient) -> None:
    for name, status in (("base", 403), (BASE.template_id, 403), ("none", 404), ("none:tag", 404), ("not valid", 400)):
        assert await delete(client, name) == status, name
    assert (await client.post("/v2/sandboxes", json={"templateID": "base"})).status_code == 201


async def test_another_teams_snapshots(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    named, bare = await take(client, sandbox_id, name="kept"), await take(client, sandbox_id)
    for text in (named["snapshotID"], bare["snapshotID"], "kept"):
        assert await delete(stranger, text) == 404
        assert (await stranger.post("/v2/sandboxes", json={"templateID": text})).status_code == 404
        assert await listed(stranger, f"name={text}") == []
    assert await listed(stranger) == await listed(stranger, f"sandboxID={sandbox_id}") == []
    assert len(await listed(client)) == 2
