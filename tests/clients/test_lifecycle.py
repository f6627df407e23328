"""From create to kill (current-protocol 11.1)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import e2b
import pytest
from packaging.version import Version
from tests.clients.flavours import each, got, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.flavours import Create, Flavour
    from tests.live import Live


async def test_create_runs_at_once(create: Create) -> None:
    sandbox = await create(timeout=60)
    assert await got(sandbox.is_running())
    assert sandbox.sandbox_id.isalnum()
    assert sandbox.sandbox_id.islower()
    info = await got(sandbox.get_info())
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.state == e2b.SandboxState.RUNNING
    assert info.name == "base"
    assert Version(info.envd_version) >= Version("0.6.4")
    assert info.cpu_count >= 1
    assert info.memory_mb >= 128


async def test_the_server_owns_the_default_timeout(create: Create) -> None:
    info = await got((await create()).get_info())
    assert info.end_at - info.started_at == timedelta(seconds=300)
    assert info.started_at.tzinfo is not None
    assert abs(datetime.now(UTC) - info.started_at) < timedelta(minutes=5)


async def test_metadata_comes_back(create: Create, flavour: Flavour) -> None:
    metadata = {"purpose": "a test & more", "ключ": "значение=/%20", "": "empty key"}
    sandbox = await create(metadata=metadata)
    assert (await got(sandbox.get_info())).metadata == metadata
    assert (await got(flavour.Sandbox.get_info(sandbox.sandbox_id))).metadata == metadata
    pages = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata={"ключ": "значение=/%20"}))
    listed = [info for info in await got(pages.next_items()) if info.sandbox_id == sandbox.sandbox_id]
    assert [info.metadata for info in listed] == [metadata]


async def test_options_come_back(create: Create) -> None:
    sandbox = await create(
        lifecycle={"on_timeout": "kill"},
        network={
            "allow_out": ["203.0.113.1"],
            "deny_out": ["198.51.100.0/24"],
            "mask_request_host": "masked.example:${PORT}",
        },
        allow_internet_access=True,
    )
    info = await got(sandbox.get_info())
    assert info.lifecycle == {"on_timeout": "kill", "auto_resume": False}
    assert info.network["allow_out"] == ["203.0.113.1"]
    assert info.network["deny_out"] == ["198.51.100.0/24"]
    assert info.network["mask_request_host"] == "masked.example:${PORT}"
    assert info.allow_internet_access is True


async def test_no_lifecycle_action_is_the_default(create: Create) -> None:
    sandbox = await create(lifecycle={"on_timeout": None})
    assert await got(sandbox.is_running())


async def test_kill(create: Create, flavour: Flavour) -> None:
    sandbox = await create(metadata={"killed": flavour.name})
    other = await create(metadata={"killed": flavour.name})
    pages = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata={"killed": flavour.name}))
    assert {info.sandbox_id for info in await got(pages.next_items())} == {sandbox.sandbox_id, other.sandbox_id}

    assert await got(sandbox.kill()) is True
    assert await got(sandbox.is_running()) is False
    pages = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata={"killed": flavour.name}))
    assert [info.sandbox_id for info in await got(pages.next_items())] == [other.sandbox_id]

    assert await got(sandbox.kill()) is False
    assert await got(flavour.Sandbox.kill(other.sandbox_id)) is True
    assert await got(flavour.Sandbox.kill("nonexistingsandbox")) is False


async def test_what_a_killed_sandbox_answers(create: Create, flavour: Flavour) -> None:
    sandbox = await create()
    await got(sandbox.kill())
    not_found: list[Callable[[], Any]] = [
        lambda: flavour.Sandbox.connect(sandbox.sandbox_id),
        lambda: sandbox.get_info(),
        lambda: sandbox.set_timeout(60),
        lambda: sandbox.get_metrics(),
        lambda: sandbox.update_network({}),
    ]
    for call in not_found:
        with pytest.raises(e2b.SandboxNotFoundException):
            await got(call())
    not_running: list[Callable[[], Any]] = [
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.commands.list(),
        lambda: sandbox.files.list("/"),
        lambda: sandbox.files.read("/etc/hostname"),
        lambda: sandbox.files.write("/tmp/x", "x"),
    ]
    for call in not_running:
        with pytest.raises(e2b.SandboxNotRunningException):
            await got(call())


async def test_the_context_manager_kills(flavour: Flavour) -> None:
    if flavour.blocking:
        with flavour.Sandbox.create() as sandbox:
            assert sandbox.is_running()
    else:
        async with await flavour.Sandbox.create() as sandbox:
            assert await sandbox.is_running()
    assert await got(sandbox.is_running()) is False


async def test_timeout_ends_it(create: Create) -> None:
    at_create = await create(timeout=1)
    later = await create()
    assert await got(later.is_running())
    await got(later.set_timeout(1))
    extended = await create(timeout=2)
    await got(extended.set_timeout(60))
    for sandbox in (at_create, later):
        await until(partial(gone, sandbox))
    await asyncio.sleep(2)
    assert await got(extended.is_running())


async def gone(sandbox: Any) -> bool:
    return not await got(sandbox.is_running())


async def test_set_timeout_shortens_and_extends(create: Create) -> None:
    sandbox = await create(timeout=300)
    ends = []
    for timeout in (100, 1000):
        await got(sandbox.set_timeout(timeout))
        ends.append((await got(sandbox.get_info())).end_at)
    assert timedelta(seconds=890) < ends[1] - ends[0] < timedelta(seconds=960)


async def test_connect(create: Create, flavour: Flavour) -> None:
    sandbox = await create()
    again = await got(flavour.Sandbox.connect(sandbox.sandbox_id))
    assert again.sandbox_id == sandbox.sandbox_id
    await got(again.files.write("note", "through the second handle"))
    assert await got(sandbox.files.read("note")) == "through the second handle"
    assert await got(sandbox.is_running())
    assert await got((await got(sandbox.connect())).is_running())


async def test_connect_only_extends(create: Create, flavour: Flavour) -> None:
    sandbox = await create(timeout=400)
    end = (await got(sandbox.get_info())).end_at
    await got(flavour.Sandbox.connect(sandbox.sandbox_id, timeout=10))
    assert (await got(sandbox.get_info())).end_at == end
    await got(flavour.Sandbox.connect(sandbox.sandbox_id))  # the default, 300 s, is shorter too
    assert (await got(sandbox.get_info())).end_at == end
    await got(flavour.Sandbox.connect(sandbox.sandbox_id, timeout=800))
    assert (await got(sandbox.get_info())).end_at > end + timedelta(seconds=300)


async def test_no_mcp_gateway_no_sandbox(flavour: Flavour) -> None:
    metadata = {"mcp": flavour.name}
    with pytest.raises(e2b.SandboxException, match="Failed to start MCP gateway"):
        await got(flavour.Sandbox.create("base", mcp={"duckduckgo": {}}, metadata=metadata))
    pages = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata=metadata))
    assert [item async for item in each(await got(pages.next_items()))] == []


async def test_wrong_keys_and_wrong_wishes(flavour: Flavour) -> None:
    with pytest.raises(e2b.AuthenticationException):
        await got(flavour.Sandbox.create(api_key="e2b_" + 40 * "0"))
    with pytest.raises(e2b.AuthenticationException):
        await got(flavour.Sandbox.list(api_key="e2b_" + 40 * "0").next_items())
    for template, code in (("no-such-template", 404), ("base:no-such-tag", 404), ("../base", 400)):
        with pytest.raises(e2b.SandboxException) as raised:
            await got(flavour.Sandbox.create(template))
        assert raised.value.status_code == code
    for timeout in (0, -1, 10**9):
        with pytest.raises(e2b.SandboxException) as raised:
            await got(flavour.Sandbox.create(timeout=timeout))
        assert raised.value.status_code == 400


async def test_another_teams_sandbox_is_unknown(create: Create, flavour: Flavour, live: Live) -> None:
    sandbox = await create()
    other = live.another_team()
    for call in (flavour.Sandbox.connect, flavour.Sandbox.get_info, flavour.Sandbox.get_metrics):
        with pytest.raises(e2b.SandboxNotFoundException):
            await got(call(sandbox.sandbox_id, api_key=other))
    with pytest.raises(e2b.SandboxNotFoundException):
        await got(flavour.Sandbox.set_timeout(sandbox.sandbox_id, 1, api_key=other))
    with pytest.raises(e2b.SandboxNotFoundException):
        await got(flavour.Sandbox.update_network(sandbox.sandbox_id, {}, api_key=other))
    assert await got(flavour.Sandbox.kill(sandbox.sandbox_id, api_key=other)) is False
    assert await got(flavour.Sandbox.list(api_key=other).next_items()) == []
    assert await got(sandbox.is_running())


async def test_a_repeated_create_with_one_key_makes_one_sandbox(create: Create, flavour: Flavour) -> None:
    key = f"one-sandbox-{flavour.name}"
    first = await create(metadata={"once": key}, idempotency_key=key)
    second = await got(flavour.Sandbox.create(metadata={"once": key}, idempotency_key=key))
    assert second.sandbox_id == first.sandbox_id
    with pytest.raises(e2b.SandboxException) as raised:
        await got(flavour.Sandbox.create(metadata={"once": "other"}, idempotency_key=key))
    assert raised.value.status_code == 422


async def test_a_bound_client(flavour: Flavour, clients: dict[str, str]) -> None:
    client = e2b.E2B(
        api_key=clients["E2B_API_KEY"], api_url=clients["E2B_API_URL"], sandbox_url=clients["E2B_SANDBOX_URL"]
    )
    bound = client.Sandbox if flavour.blocking else client.AsyncSandbox
    sandbox = await got(bound.create())
    try:
        assert (await got(sandbox.commands.run("echo bound"))).stdout == "bound\n"
    finally:
        assert await got(sandbox.kill())


def test_first_generation_routes(clients: dict[str, str], live: Live) -> None:
    """Older releases of the clients create and connect without /v2."""
    made = live.api.post("/sandboxes", json={"templateID": "base", "secure": True, "timeout": 60})
    assert made.status_code == 201
    sandbox_id = made.json()["sandboxID"]
    token = made.json()["envdAccessToken"]
    assert token
    assert live.api.get(f"/sandboxes/{sandbox_id}").json()["envdAccessToken"] == token
    again = live.api.post(f"/sandboxes/{sandbox_id}/connect", json={"timeout": 10})
    assert (again.status_code, again.json()["envdAccessToken"]) == (200, token)
    assert live.api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 600}).status_code == 204
    assert live.api.post("/sandboxes/iunknown/refreshes", json={"duration": 600}).status_code == 404
    end = e2b.Sandbox.get_info(sandbox_id).end_at
    assert end > datetime.now(UTC) + timedelta(seconds=300)
    assert live.api.post(f"/sandboxes/{sandbox_id}/refreshes", json={"duration": 1}).status_code == 204
    assert e2b.Sandbox.get_info(sandbox_id).end_at == end
    assert e2b.Sandbox.connect(sandbox_id).commands.run("echo hi").stdout == "hi\n"
    assert e2b.Sandbox.kill(sandbox_id)


def test_first_generation_without_a_token(clients: dict[str, str], live: Live) -> None:
    made = live.api.post("/sandboxes", json={"templateID": "base"})
    assert made.status_code == 201
    assert made.json().get("envdAccessToken") is None
    sandbox_id = made.json()["sandboxID"]
    try:
        assert e2b.Sandbox.connect(sandbox_id).commands.run("echo hi").stdout == "hi\n"
    finally:
        assert e2b.Sandbox.kill(sandbox_id)
    refused = live.api.post("/sandboxes", json={"templateID": "base", "network": {"allowPublicTraffic": False}})
    assert refused.status_code == 400
