"""Create, info, connect, timeout, kill (current-protocol 3.2 to 3.6, 11.1)."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.api.memory_node import BASE

from sandpit.api.answers import ENVD_VERSION
from sandpit.contract.errors import CapacityExhausted, NodeError, UnknownTemplateBuild

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode

    from sandpit.control.app import ControlPlane


async def create(client: httpx.AsyncClient, **fields: object) -> dict[str, Any]:
    response = await client.post("/v2/sandboxes", json={"templateID": "base", **fields})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


async def detail(client: httpx.AsyncClient, sandbox_id: object) -> dict[str, Any]:
    response = await client.get(f"/sandboxes/{sandbox_id}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def lifetime(body: dict[str, object]) -> float:
    return (datetime.fromisoformat(str(body["endAt"])) - datetime.fromisoformat(str(body["startedAt"]))).total_seconds()


async def test_create_v2_answers_exactly_the_sandbox(client: httpx.AsyncClient, node: MemoryNode) -> None:
    body = await create(client, metadata={}, envVars={"A": "1"}, unknownField=1)
    assert set(body) == {
        "templateID", "sandboxID", "clientID", "envdVersion", "alias", "envdAccessToken", "trafficAccessToken",
        "domain",
    }  # fmt: skip
    assert re.fullmatch("i[a-z0-9]{20}", str(body["sandboxID"]))
    assert body["templateID"] == BASE.template_id
    assert body["alias"] == "base"
    assert body["domain"] == "e2b.localhost:3443"
    assert body["trafficAccessToken"] is None
    assert tuple(int(part) for part in str(body["envdVersion"]).split(".")) >= (0, 6, 4)
    spec = node.machine[str(body["sandboxID"])]
    assert spec.access_token == body["envdAccessToken"]
    assert spec.env == {"A": "1"}
    assert spec.build_id == BASE.build_id


async def test_defaults_of_v1_and_v2_differ(client: httpx.AsyncClient, node: MemoryNode) -> None:
    old = (await client.post("/sandboxes", json={"templateID": "base"})).json()
    new = await create(client)
    assert "envdAccessToken" not in old
    assert node.machine[old["sandboxID"]].access_token is None
    assert lifetime(await detail(client, old["sandboxID"])) == 15
    assert lifetime(await detail(client, new["sandboxID"])) == 300


async def test_v1_secure_gives_a_token_that_info_repeats(client: httpx.AsyncClient) -> None:
    body = (await client.post("/sandboxes", json={"templateID": "base", "secure": True})).json()
    assert body["envdAccessToken"]
    assert (await detail(client, body["sandboxID"]))["envdAccessToken"] == body["envdAccessToken"]


async def test_detail_has_every_field(client: httpx.AsyncClient) -> None:
    network = {"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "maskRequestHost": "h.example:${PORT}"}
    made = await create(client, metadata={"k": "v"}, network=network, allow_internet_access=True, timeout=60)
    body = await detail(client, made["sandboxID"])
    assert lifetime(body) == 60
    assert str(body["endAt"]).endswith("Z")
    del body["startedAt"], body["endAt"]
    assert body == {
        "templateID": BASE.template_id,
        "sandboxID": made["sandboxID"],
        "clientID": made["clientID"],
        "alias": "base",
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 1024,
        "state": "running",
        "envdVersion": ENVD_VERSION,
        "metadata": {"k": "v"},
        "allowInternetAccess": True,
        "domain": "e2b.localhost:3443",
        "envdAccessToken": made["envdAccessToken"],
        "lifecycle": {"autoResume": False, "onTimeout": "kill"},
        "network": network,
    }


@pytest.mark.parametrize("name", ["base", "BASE", " base ", "base:default", BASE.template_id, "base%3Adefault"])
async def test_templates_by_any_name(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/v2/sandboxes", json={"templateID": name})
    assert response.status_code == (400 if "%" in name else 201), response.text


@pytest.mark.parametrize("name", ["nothing", "base:nothing", "others/base", "code-interpreter-v1:v3"])
async def test_unknown_template_or_tag_is_404(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post("/v2/sandboxes", json={"templateID": name})
    assert response.status_code == 404
    assert response.json()["code"] == 404


async def test_connect_extends_and_never_shortens(client: httpx.AsyncClient) -> None:
    made = await create(client, timeout=100)
    before = await detail(client, made["sandboxID"])
    path = f"/v2/sandboxes/{made['sandboxID']}/connect"
    shorter = await client.post(path, json={"timeout": 10})
    assert shorter.status_code == 200
    assert shorter.json() == made
    assert (await detail(client, made["sandboxID"]))["endAt"] == before["endAt"]
    assert (await client.post(path, json={"timeout": 200})).status_code == 200
    assert str((await detail(client, made["sandboxID"]))["endAt"]) > str(before["endAt"])


async def test_connect_without_body(client: httpx.AsyncClient) -> None:
    made = await create(client, timeout=10)
    assert (await client.post(f"/v2/sandboxes/{made['sandboxID']}/connect")).status_code == 200
    assert lifetime(await detail(client, made["sandboxID"])) > 290
    assert (await client.post(f"/sandboxes/{made['sandboxID']}/connect")).status_code == 400
    assert (await client.post(f"/v2/sandboxes/{made['sandboxID']}/connect", json={"timeout": 0})).status_code == 400


async def test_timeout_shortens_and_extends(client: httpx.AsyncClient) -> None:
    made = await create(client)
    for seconds in (50, 500):
        response = await client.post(f"/sandboxes/{made['sandboxID']}/timeout", json={"timeout": seconds})
        assert (response.status_code, response.content) == (204, b"")
        end = datetime.fromisoformat(str((await detail(client, made["sandboxID"]))["endAt"]))
        assert abs(end - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=10)


async def test_timeout_zero_ends_now(client: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await create(client)
    assert (await client.post(f"/sandboxes/{made['sandboxID']}/timeout", json={"timeout": 0})).status_code == 204
    assert (await client.get(f"/sandboxes/{made['sandboxID']}")).status_code == 404
    assert not node.machine


async def test_refresh_extends_only(client: httpx.AsyncClient) -> None:
    made = await create(client, timeout=100)
    path = f"/sandboxes/{made['sandboxID']}/refreshes"
    before = await detail(client, made["sandboxID"])
    assert (await client.post(path)).status_code == 204
    assert (await detail(client, made["sandboxID"]))["endAt"] == before["endAt"]
    assert (await client.post(path, json={"duration": 3600})).status_code == 204
    assert lifetime(await detail(client, made["sandboxID"])) > 3000
    assert (await client.post(path, json={"duration": 3601})).status_code == 400


async def test_expiry_ends_the_sandbox(client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode) -> None:
    made = await create(client, timeout=1)
    ended = asyncio.Event()
    control.directory.on_gone(lambda _: ended.set())
    await asyncio.wait_for(ended.wait(), 20)
    await asyncio.wait_for(node.killing.wait(), 20)
    for _ in range(100):
        if (await client.get(f"/sandboxes/{made['sandboxID']}")).status_code == 404:
            break
        await asyncio.sleep(0.05)
    assert (await client.post(f"/v2/sandboxes/{made['sandboxID']}/connect")).status_code == 404
    assert node.killed == [made["sandboxID"]]


async def test_kill_answers_when_the_node_is_done(client: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await create(client)
    node.hold_kill = asyncio.Event()
    kill = asyncio.create_task(client.delete(f"/sandboxes/{made['sandboxID']}"))
    await node.killing.wait()
    connect = await client.post(f"/v2/sandboxes/{made['sandboxID']}/connect")
    assert (connect.status_code, connect.json()["code"]) == (409, 409)
    assert not kill.done()
    node.hold_kill.set()
    response = await kill
    assert (response.status_code, response.content) == (204, b"")
    again = await client.delete(f"/sandboxes/{made['sandboxID']}")
    assert (again.status_code, again.json()["code"]) == (404, 404)


async def test_legacy_public_id(client: httpx.AsyncClient) -> None:
    made = await create(client)
    assert (await client.get(f"/sandboxes/{made['sandboxID']}-{made['clientID']}")).status_code == 200
    assert (await client.get(f"/sandboxes/{made['sandboxID']}-a-b")).status_code == 404


async def test_traffic_token_and_edge_target(client: httpx.AsyncClient, control: ControlPlane) -> None:
    network = {"allowPublicTraffic": False, "maskRequestHost": "h:${PORT}", "httpsPorts": [8443]}
    made = await create(client, network=network)
    target = control.directory.find(str(made["sandboxID"]))
    assert target is not None
    assert made["trafficAccessToken"] == target.traffic_token is not None
    assert target.access_token == made["envdAccessToken"] != target.traffic_token
    assert (target.address, target.mask_request_host, target.https_ports) == (
        "10.0.0.1",
        "h:${PORT}",
        frozenset({8443}),
    )
    gone: list[str] = []
    control.directory.on_gone(gone.append)
    await client.delete(f"/sandboxes/{made['sandboxID']}")
    assert gone == [made["sandboxID"]]
    assert control.directory.find(str(made["sandboxID"])) is None


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CapacityExhausted("full"), 503, "sandbox_capacity_unavailable"),
        (NodeError("broken"), 500, "sandbox_create_failed"),
        (UnknownTemplateBuild("no build"), 404, None),
    ],
)
async def test_a_failed_create_leaves_nothing(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, error: NodeError, status: int, code: str | None
) -> None:
    node.fail_create = error
    response = await client.post("/v2/sandboxes", json={"templateID": "base"})
    assert response.status_code == status
    assert response.json()["code"] == status
    assert response.json().get("error_code") == code
    assert (await client.get("/v2/sandboxes")).json() == []
    assert list(control.services.sandboxes.live) == []
    # 503 may be repeated: nothing has happened.
    assert response.headers.get("retry-after") == ("5" if status == 503 else None)


async def test_a_sandbox_that_dies_is_closed(client: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await create(client)
    await node.crash(str(made["sandboxID"]), "out of memory")
    assert (await client.get(f"/sandboxes/{made['sandboxID']}")).status_code == 404
    logs = (await client.get(f"/sandboxes/{made['sandboxID']}/logs")).json()
    assert "out of memory" in logs["logs"][-1]["line"]


@pytest.mark.parametrize("action", ["pause", "fork", "snapshots"])
async def test_what_the_node_cannot_do_changes_nothing(
    client: httpx.AsyncClient, node: MemoryNode, action: str
) -> None:
    made = await create(client)
    node.fail_snapshot = NodeError("the disk is full")
    response = await client.post(f"/sandboxes/{made['sandboxID']}/{action}", json={})
    assert (response.status_code, response.json()["code"]) == (500, 500)
    assert "the disk is full" in response.json()["message"]
    assert (await client.post(f"/sandboxes/i{'0' * 20}/{action}", json={})).status_code == 404
    assert (await detail(client, made["sandboxID"]))["state"] == "running"


async def test_resume_of_a_running_sandbox_is_a_conflict(client: httpx.AsyncClient) -> None:
    made = await create(client)
    assert (await client.post(f"/sandboxes/{made['sandboxID']}/resume", json={})).status_code == 409
    assert (await client.post(f"/sandboxes/i{'0' * 20}/resume", json={})).status_code == 404
