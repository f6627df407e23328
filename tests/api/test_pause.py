"""Pause, resume and auto-resume (current-protocol 3.3, 3.6, 11.3)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import OperationalError
from tests.api.conftest import api_client
from tests.api.test_lifecycle import create, detail, lifetime

from sandpit.contract.directory import WakeRefusedError
from sandpit.contract.errors import CapacityExhausted, NodeError
from sandpit.control.app import ControlPlane
from sandpit.control.lifecycle import records
from sandpit.store.models import Sandbox, Team

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode

    from sandpit.server.settings import Settings

UNKNOWN = "iabcdefghijklmnopqrst"
AUTO = {"autoPause": True, "autoResume": {"enabled": True}}


async def post(client: httpx.AsyncClient, sandbox_id: str, action: str, body: object = None) -> httpx.Response:
    return await client.post(f"/sandboxes/{sandbox_id}/{action}", json=body if body is not None else {})


async def paused(client: httpx.AsyncClient, **fields: object) -> str:
    """A new sandbox, paused."""
    sandbox_id = str((await create(client, **fields))["sandboxID"])
    response = await post(client, sandbox_id, "pause")
    assert (response.status_code, response.content) == (204, b"")
    return sandbox_id


async def state(client: httpx.AsyncClient, sandbox_id: str) -> str:
    return str((await detail(client, sandbox_id))["state"])


async def until_paused(client: httpx.AsyncClient, node: MemoryNode, sandbox_id: str) -> None:
    while sandbox_id in node.machine or await state(client, sandbox_id) != "paused":
        await asyncio.sleep(0.01)


async def test_a_paused_sandbox_as_it_is_shown(client: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await create(client, metadata={"k": "v"}, timeout=100)
    sandbox_id = made["sandboxID"]
    assert "pauseMode" not in await detail(client, sandbox_id)
    assert (await client.post(f"/sandboxes/{sandbox_id}/pause")).status_code == 204
    shown = await detail(client, sandbox_id)
    assert (shown["state"], shown["pauseMode"], shown["metadata"]) == ("paused", "full", {"k": "v"})
    assert shown["envdAccessToken"] == made["envdAccessToken"]
    assert lifetime(shown) < 100
    assert sandbox_id not in node.machine
    again = await post(client, sandbox_id, "pause")
    assert (again.status_code, again.json()["code"]) == (409, 409)
    for action, body in (("timeout", {"timeout": 10}), ("timeout", {"timeout": 0}), ("refreshes", {"duration": 60})):
        assert (await post(client, sandbox_id, action, body)).status_code == 409
    assert (await client.put(f"/sandboxes/{sandbox_id}/network", json={})).status_code == 409
    assert await state(client, sandbox_id) == "paused"


async def test_without_memory(client: httpx.AsyncClient, node: MemoryNode) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    assert (await post(client, sandbox_id, "pause", {"memory": False})).status_code == 204
    assert (await detail(client, sandbox_id))["pauseMode"] == "filesystem"
    assert (await post(client, sandbox_id, "connect", {"timeout": 10})).status_code == 201
    await post(client, sandbox_id, "pause")
    assert (await post(client, sandbox_id, "connect", {"timeout": 10, "memory": False})).status_code == 201
    assert node.machine[sandbox_id].memory is False


@pytest.mark.parametrize("version", ["", "/v2"])
async def test_connect_resumes(client: httpx.AsyncClient, node: MemoryNode, version: str) -> None:
    made = await create(client, envVars={"A": "1"}, network={"denyOut": ["8.8.8.8"]}, timeout=1000)
    sandbox_id = made["sandboxID"]
    first = node.machine[sandbox_id]
    await post(client, sandbox_id, "pause")
    response = await client.post(f"{version}/sandboxes/{sandbox_id}/connect", json={"timeout": 30})
    assert (response.status_code, response.json()) == (201, made)
    again = node.machine[sandbox_id]
    assert (again.access_token, again.env, again.network) == (first.access_token, first.env, first.network)
    assert (again.snapshot_id, again.resumed, again.memory) == (sandbox_id, True, True)
    assert not node.kept
    shown = await detail(client, sandbox_id)
    assert (shown["state"], lifetime(shown)) == ("running", 30)
    assert "pauseMode" not in shown
    assert (await client.post(f"{version}/sandboxes/{sandbox_id}/connect", json={"timeout": 10})).status_code == 200


async def test_resume(client: httpx.AsyncClient) -> None:
    sandbox_id = await paused(client)
    response = await client.post(f"/sandboxes/{sandbox_id}/resume")
    assert (response.status_code, response.json()["sandboxID"]) == (201, sandbox_id)
    before = await detail(client, sandbox_id)
    assert lifetime(before) == 15
    refused = await post(client, sandbox_id, "resume", {"timeout": 1000})
    assert (refused.status_code, refused.json()["code"]) == (409, 409)
    assert await detail(client, sandbox_id) == before, "a refused resume must not extend it"


async def test_nothing_to_pause_or_resume(client: httpx.AsyncClient, node: MemoryNode) -> None:
    killed = await paused(client)
    assert (await client.delete(f"/sandboxes/{killed}")).status_code == 204
    assert not node.kept
    for sandbox_id in (UNKNOWN, killed):
        for action, body in (("pause", {}), ("resume", {}), ("connect", {"timeout": 10})):
            response = await post(client, sandbox_id, action, body)
            assert (response.status_code, response.json()["code"]) == (404, 404)
    assert killed not in (await client.get("/v2/sandboxes")).text


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("pause", {"memory": "no"}), ("connect", {"timeout": 0}), ("connect", {"timeout": 10**9}), ("connect", {"timeout": "1"}),
        ("resume", {"timeout": 0}), ("resume", {"timeout": 10**9}), ("connect", {"timeout": 10, "memory": 1}),
    ],
)  # fmt: skip
async def test_bad_wishes(client: httpx.AsyncClient, action: str, body: object) -> None:
    sandbox_id = await paused(client)
    assert (await post(client, sandbox_id, action, body)).status_code == 400
    assert await state(client, sandbox_id) == "paused"


async def test_auto_pause_that_cannot_be(client: httpx.AsyncClient) -> None:
    for fields in ({**AUTO, "autoPauseMemory": False}, {"autoPauseMemory": False}, {"autoPauseMemory": True}):
        expected = 201 if fields.get("autoPauseMemory") else 400
        response = await client.post("/v2/sandboxes", json={"templateID": "base", **fields})
        assert response.status_code == expected, fields


async def test_many_resume_it_once(client: httpx.AsyncClient, node: MemoryNode) -> None:
    sandbox_id = await paused(client)
    node.hold_create = asyncio.Event()
    node.creating.clear()
    calls = asyncio.gather(*(post(client, sandbox_id, "connect", {"timeout": 60}) for _ in range(20)))
    await node.creating.wait()
    node.hold_create.set()
    assert Counter(answer.status_code for answer in await calls) == {201: 1, 200: 19}
    await post(client, sandbox_id, "pause")
    answers = await asyncio.gather(*(post(client, sandbox_id, "resume") for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 19}


async def test_a_pausing_sandbox_is_shown_once_as_paused(client: httpx.AsyncClient, node: MemoryNode) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    node.hold_snapshot = asyncio.Event()
    pause = asyncio.create_task(post(client, sandbox_id, "pause"))
    await node.saving.wait()
    assert await state(client, sandbox_id) == "paused"
    assert "pauseMode" not in await detail(client, sandbox_id), "it is known when the pause is done"
    for query, expected in (("", 1), ("state=paused", 1), ("state=running", 0), ("state=running,paused", 1)):
        listed = (await client.get(f"/v2/sandboxes?{query}")).json()
        assert [item["state"] for item in listed] == ["paused"] * expected
    assert (await client.get("/sandboxes")).json() == []
    twice = asyncio.create_task(post(client, sandbox_id, "pause"))
    connect = asyncio.create_task(post(client, sandbox_id, "connect", {"timeout": 10}))
    await asyncio.sleep(0.05)
    assert not connect.done()
    node.hold_snapshot.set()
    answers = [(await task).status_code for task in (pause, twice, connect)]
    assert answers == [204, 409, 201]
    assert await state(client, sandbox_id) == "running"


@pytest.mark.parametrize("auto", [False, True])
async def test_a_timer_that_fires_while_it_is_put_away(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, auto: bool
) -> None:
    sandbox_id = (await create(client, autoPause=auto))["sandboxID"]
    node.hold_snapshot = asyncio.Event()
    pause = asyncio.create_task(post(client, sandbox_id, "pause"))
    await node.saving.wait()
    live = control.services.sandboxes.live.get(sandbox_id)
    assert live is not None
    live.deadline = 0.0
    timer = asyncio.create_task(control.services.sleep.time_out(live, only_when_due=True))
    await asyncio.sleep(0.05)
    node.hold_snapshot.set()
    assert (await pause).status_code == 204
    await timer
    assert await state(client, sandbox_id) == "paused"
    assert (await post(client, sandbox_id, "connect", {"timeout": 10})).status_code == 201
    assert node.killed == []


async def test_what_happens_when_its_time_is_over(client: httpx.AsyncClient, node: MemoryNode) -> None:
    kept = (await create(client, autoPause=True, timeout=1))["sandboxID"]
    files = (await create(client, autoPause=True, autoPauseMemory=False))["sandboxID"]
    ended = (await create(client, timeout=1))["sandboxID"]
    assert (await post(client, files, "timeout", {"timeout": 0})).status_code == 204
    assert (await detail(client, files))["pauseMode"] == "filesystem"
    await until_paused(client, node, kept)
    assert (await detail(client, kept))["pauseMode"] == "full"
    while ended in node.machine:
        await asyncio.sleep(0.01)
    assert (await client.get(f"/sandboxes/{ended}")).status_code == 404
    assert (await post(client, ended, "resume")).status_code == 404


@pytest.mark.parametrize("mute", [False, True])
async def test_a_pause_that_fails(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, mute: bool
) -> None:
    sandbox_id = (await create(client, timeout=100))["sandboxID"]
    before = await detail(client, sandbox_id)
    if mute:
        node.mute.add(sandbox_id)
    else:
        node.fail_snapshot = NodeError("disk full")
    expected, status = ("no answer", 503) if mute else ("disk full", 500)
    for action, body in (
        ("pause", {"requireHealthyGuest": True}), ("pause", {"memory": False}), ("snapshots", {}), ("fork", {}),
    ):  # fmt: skip
        response = await post(client, sandbox_id, action, body)
        assert (response.status_code, expected in response.json()["message"]) == (status, True), action
        assert "error_code" not in response.json(), "the clients' code says that it is paused and needs a reboot"
    assert await detail(client, sandbox_id) == before
    target = control.directory.find(sandbox_id)
    assert target is not None
    assert target.state == "running"
    node.fail_snapshot = None
    node.mute.clear()
    assert (await post(client, sandbox_id, "pause", {"requireHealthyGuest": True})).status_code == 204
    assert "envdUnresponsiveAtPause" not in await detail(client, sandbox_id)


async def test_an_agent_that_does_not_answer_is_noted(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    """Its memory would bring the same agent back, so only a boot resumes it: not a plain resume, not a request."""
    sandbox_id = (await create(client, **AUTO))["sandboxID"]
    node.mute.add(sandbox_id)
    assert (await post(client, sandbox_id, "pause")).status_code == 204
    shown = await detail(client, sandbox_id)
    assert (shown["state"], shown["pauseMode"], shown["envdUnresponsiveAtPause"]) == ("paused", "full", True)
    [listed] = (await client.get("/v2/sandboxes")).json()
    assert listed["envdUnresponsiveAtPause"] is True
    assert control.directory.find(sandbox_id) is None
    for action, body in (("connect", {"timeout": 10}), ("resume", {})):
        refused = await post(client, sandbox_id, action, body)
        assert refused.status_code == 409
        assert refused.json()["error_code"] == "sandbox_snapshot_guest_agent_unresponsive"
    assert await state(client, sandbox_id) == "paused"
    assert (await post(client, sandbox_id, "connect", {"timeout": 10, "memory": False})).status_code == 201
    assert node.machine[sandbox_id].memory is False
    assert "envdUnresponsiveAtPause" not in await detail(client, sandbox_id)


async def test_a_pause_that_cannot_be_written_down(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has happened: a request resumes the sandbox as soon as the database takes records again, and the record is made good."""
    plain, auto = (await create(client))["sandboxID"], (await create(client, **AUTO))["sandboxID"]
    broken = OperationalError("UPDATE sandboxes", {}, Exception("disk I/O error"))
    write = records.pause_sandbox

    def fail(*_: object) -> Sandbox:
        raise broken

    monkeypatch.setattr("sandpit.control.lifecycle.pausing.RECORD_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(records, "pause_sandbox", fail)
    for sandbox_id in (plain, auto):
        assert (await post(client, sandbox_id, "pause")).status_code == 500
        assert await state(client, sandbox_id) == "paused"
        assert sandbox_id in node.kept
    assert control.directory.find(plain) is None
    with pytest.raises(WakeRefusedError) as refused:
        await control.directory.wake(auto)
    assert refused.value.status == 500
    monkeypatch.setattr(records, "pause_sandbox", write)
    while "pauseMode" not in await detail(client, plain):
        await asyncio.sleep(0.01)
    found = await control.directory.wake(auto)
    assert found is not None
    assert found.state == "running"
    assert await state(client, auto) == "running"


async def test_a_kill_is_tried_again_whatever_is_written_down(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    close = records.close_sandbox

    def fail(*_: object) -> Sandbox:
        raise OperationalError("UPDATE sandboxes", {}, Exception("disk I/O error"))

    monkeypatch.setattr("sandpit.control.lifecycle.ending.KILL_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(records, "pause_sandbox", fail)
    monkeypatch.setattr(records, "close_sandbox", fail)
    assert (await post(client, sandbox_id, "pause")).status_code == 500
    assert (await client.delete(f"/sandboxes/{sandbox_id}")).status_code == 500
    monkeypatch.setattr(records, "close_sandbox", close)
    while sandbox_id in node.kept:
        await asyncio.sleep(0.01)
    assert (await client.get(f"/sandboxes/{sandbox_id}")).status_code == 404


async def test_a_sandbox_that_cannot_be_paused_does_not_outlive_its_session(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode
) -> None:
    """Root in a sandbox can stop its agent, without which its files cannot be kept. A failure that is ours, a full disk, ends none."""
    mute, full = [
        str((await create(client, timeout=100, autoPause=True, autoPauseMemory=memory))["sandboxID"])
        for memory in (False, True)
    ]
    node.mute.add(mute)
    lives = {sandbox_id: control._core.live.get(sandbox_id) for sandbox_id in (mute, full)}
    for last_deadline_over, error, sandbox_id, state_after in (
        (False, None, mute, 200),
        (True, NodeError("disk full"), full, 200),
        (True, None, mute, 404),
    ):
        node.fail_snapshot = error
        live = lives[sandbox_id]
        assert live is not None
        live.deadline = control._core.expiry.now() - 1
        if last_deadline_over:
            live.last_deadline = live.deadline
        await control._core.time_out(live, only_when_due=True)
        assert (await client.get(f"/sandboxes/{sandbox_id}")).status_code == state_after
    assert node.killed == [mute]


async def test_a_resume_that_fails_leaves_it_paused(client: httpx.AsyncClient, node: MemoryNode) -> None:
    sandbox_id = await paused(client)
    for error, status in ((CapacityExhausted("full"), 503), (NodeError("broken"), 500)):
        node.fail_create = error
        response = await post(client, sandbox_id, "connect", {"timeout": 10})
        assert (response.status_code, str(error) in response.json()["message"]) == (status, True)
        assert await state(client, sandbox_id) == "paused"
        assert sandbox_id in node.kept
    node.fail_create = None
    assert (await post(client, sandbox_id, "connect", {"timeout": 10})).status_code == 201


async def test_paused_sandboxes_do_not_count_until_they_are_resumed(settings: Settings, node: MemoryNode) -> None:
    limits = settings.limits.model_copy(update={"max_sandboxes": 1})
    async with (
        ControlPlane(settings.model_copy(update={"limits": limits}), node) as control,
        api_client(control, control.first_key) as client,
    ):
        first = await paused(client, **AUTO)
        second = (await create(client))["sandboxID"]
        for action, body in (("connect", {"timeout": 10}), ("resume", {})):
            refused = await post(client, first, action, body)
            assert (refused.status_code, refused.json()["code"]) == (429, 429)
        with pytest.raises(WakeRefusedError) as raised:
            await control.directory.wake(first)
        assert raised.value.status == 429
        assert await state(client, first) == "paused"
        await client.delete(f"/sandboxes/{second}")
        assert (await post(client, first, "connect", {"timeout": 10})).status_code == 201


async def test_the_teams_share_of_the_disk(settings: Settings, node: MemoryNode) -> None:
    limits = settings.limits.model_copy(update={"snapshots_mb": 2})  # a MemoryNode's snapshot has 1 MiB
    async with (
        ControlPlane(settings.model_copy(update={"limits": limits}), node) as control,
        api_client(control, control.first_key) as client,
    ):
        first = await paused(client)
        third = (await create(client, autoPause=True))["sandboxID"]
        kept = (await post(client, third, "snapshots")).json()["snapshotID"]
        for action in ("pause", "snapshots", "fork"):
            refused = await post(client, third, action)
            assert (refused.status_code, refused.json()["code"]) == (429, 429)
            assert await state(client, third) == "running"
        assert (await post(client, third, "timeout", {"timeout": 0})).status_code == 429
        assert await state(client, third) == "running"
        assert (await client.delete(f"/templates/{kept}")).status_code == 204
        assert (await post(client, third, "pause")).status_code == 204
        assert (await client.delete(f"/sandboxes/{first}")).status_code == 204


async def test_who_is_resumed_by_requests(client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode) -> None:
    plain, files = await paused(client, autoPause=True), (await create(client, **AUTO))["sandboxID"]
    await post(client, files, "pause", {"memory": False})
    for sandbox_id in (plain, files):
        assert control.directory.find(sandbox_id) is None
        assert await control.directory.wake(sandbox_id) is None
        assert await state(client, sandbox_id) == "paused"
    for timeout, expected in ((60, 300), (420, 420)):
        sandbox_id = (await create(client, **AUTO, timeout=timeout))["sandboxID"]
        await post(client, sandbox_id, "timeout", {"timeout": 600})
        await post(client, sandbox_id, "pause")
        asleep = control.directory.find(sandbox_id)
        assert asleep is not None
        assert asleep.state == "asleep"
        created = len(node.machine)
        found = await asyncio.gather(*(control.directory.wake(sandbox_id) for _ in range(100)))
        assert {target.state for target in found if target is not None} == {"running"}
        assert None not in found
        assert len(node.machine) == created + 1
        assert lifetime(await detail(client, sandbox_id)) == expected


async def test_a_blocked_team_is_not_resumed(client: httpx.AsyncClient, control: ControlPlane) -> None:
    sandbox_id = await paused(client, **AUTO)
    identity = await control.services.keys.authenticate(str(control.first_key))
    async with control.database.write() as session:
        (await session.get_one(Team, identity.team_id)).blocked_reason = "unpaid"
    control.services.keys.forget_all()
    with pytest.raises(WakeRefusedError, match="unpaid") as raised:
        await control.directory.wake(sandbox_id)
    assert raised.value.status == 403
    assert await state(client, sandbox_id) == "paused"


@pytest.mark.parametrize("auto_resume", [True, False])
async def test_who_waits_for_a_pause(
    client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode, auto_resume: bool
) -> None:
    """The waiting request itself decides whether it may resume what has fallen asleep: it is not resumed behind its back."""
    sandbox_id = (await create(client, autoPause=True, autoResume={"enabled": auto_resume}))["sandboxID"]
    gone: list[str] = []
    control.directory.on_gone(gone.append)
    node.hold_snapshot = asyncio.Event()
    pause = asyncio.create_task(post(client, sandbox_id, "pause"))
    await node.saving.wait()
    held = control.directory.find(sandbox_id)
    assert held is not None
    assert held.state == "held"
    assert gone == [sandbox_id], "its streams are cut before it is saved"
    waiting = asyncio.create_task(control.directory.wake(sandbox_id))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    node.hold_snapshot.set()
    await pause
    found = await waiting
    assert (found.state if found is not None else None) == ("asleep" if auto_resume else None)
    assert gone == [sandbox_id] * (1 if auto_resume else 2), "who waits is cut off only where waiting is in vain"
    assert await state(client, sandbox_id) == "paused"


async def test_order_goes_by_start_whatever_the_state(client: httpx.AsyncClient) -> None:
    first = (await create(client))["sandboxID"]
    second = await paused(client)
    third = (await create(client))["sandboxID"]
    pages: list[Any] = []
    token = ""
    while len(pages) < 3:
        response = await client.get(f"/v2/sandboxes?state=running,paused&limit=1&nextToken={token}")
        pages += [item["sandboxID"] for item in response.json()]
        token = response.headers.get("X-Next-Token", "")
    assert pages == [third, second, first]
    assert token == ""
