"""Pause, resume, auto-pause, auto-resume, fork and snapshots (current-protocol 11.3 and 11.4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import e2b
import httpx
import pytest
from tests.clients.flavours import PATIENCE, each, got, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clients.flavours import Create, Flavour
    from tests.live import Live

    Sandbox = Any

RUNNING, PAUSED = e2b.SandboxState.RUNNING, e2b.SandboxState.PAUSED
BOOT_ID = "/proc/sys/kernel/random/boot_id"
PAGE = "what the server gives"


async def run(sandbox: Sandbox, command: str) -> str:
    return str((await got(sandbox.commands.run(command))).stdout).strip()


async def state(sandbox: Sandbox) -> e2b.SandboxState:
    found: e2b.SandboxState = (await got(sandbox.get_info())).state
    return found


async def paused(sandbox: Sandbox) -> bool:
    return await state(sandbox) == PAUSED


async def pids(sandbox: Sandbox) -> set[int]:
    return {process.pid for process in await got(sandbox.commands.list())}


def visit(sandbox: Sandbox, port: int, path: str = "/", **headers: str) -> httpx.Response:
    """A request of somebody who has the sandbox's address and the headers given, nothing else."""
    named = {"Host": sandbox.get_host(port)} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(sandbox.envd_api_url + path, headers=named, trust_env=False, timeout=PATIENCE)


async def serve(sandbox: Sandbox) -> None:
    """An HTTP server at port 8000 that gives PAGE.

    Nobody listens to its output: a client that loses such a stream asks for the sandbox's health, and wakes what resumes on requests.
    """
    await got(sandbox.files.write("www/index.html", PAGE))
    await run(sandbox, "python3 -m http.server -d www 8000 >/dev/null 2>&1 &")

    async def listening() -> bool:
        return bool(await run(sandbox, "ss -Htln sport = :8000"))

    await until(listening)


async def test_a_paused_sandbox_comes_back_as_it_was(create: Create, flavour: Flavour, live: Live) -> None:
    metadata = {"paused": flavour.name}
    sandbox = await create(metadata=metadata, envs={"GIVEN": "at create"}, lifecycle={"on_timeout": "pause"})
    await serve(sandbox)
    before = await run(sandbox, f"cat {BOOT_ID}")
    echo = "while read -r line; do echo got $line; done"
    handle = await got(sandbox.commands.run(echo, background=True, stdin=True, timeout=0))
    await got(sandbox.commands.run("sleep 2 && echo done > slept", background=True, timeout=0))

    assert await got(sandbox.pause(strict=True)) is True
    assert await got(sandbox.pause()) is False
    assert await got(sandbox.is_running()) is False
    info = await got(sandbox.get_info())
    assert info.state == PAUSED
    assert info.end_at < info.started_at + timedelta(seconds=300)
    detail = live.api.get(f"/sandboxes/{sandbox.sandbox_id}").json()
    assert (detail["state"], detail["pauseMode"]) == ("paused", "full")
    for wanted, found in (([PAUSED], [PAUSED]), ([RUNNING], []), ([RUNNING, PAUSED], [PAUSED])):
        pages = flavour.Sandbox.list(query=e2b.SandboxQuery(metadata=metadata, state=wanted))
        assert [item.state for item in await got(pages.next_items())] == found
    with pytest.raises(e2b.SandboxNotRunningException):
        await run(sandbox, "true")
    assert visit(sandbox, 8000).status_code == 502
    assert await paused(sandbox)

    again = await got(flavour.Sandbox.connect(sandbox.sandbox_id))
    assert again.sandbox_id == sandbox.sandbox_id
    assert await got(sandbox.is_running())
    assert await state(sandbox) == RUNNING
    assert await run(sandbox, "echo $GIVEN") == "at create"
    assert await run(sandbox, f"cat {BOOT_ID}") == before
    assert visit(sandbox, 8000).text == PAGE
    assert handle.pid in await pids(sandbox)
    lines: list[str] = []
    followed = await got(again.commands.connect(handle.pid))
    await got(again.commands.send_stdin(handle.pid, "a line\n"))
    await got(again.commands.close_stdin(handle.pid))
    lines.append((await got(followed.wait())).stdout)
    assert lines == ["got a line\n"]

    async def slept() -> bool:
        return await run(sandbox, "cat slept || true") == "done"

    await until(slept)


async def test_without_its_memory_it_boots(create: Create, flavour: Flavour, live: Live) -> None:
    sandbox = await create(envs={"GIVEN": "at create"})
    await got(sandbox.files.write("kept", "in the file system"))
    boots = [await run(sandbox, f"cat {BOOT_ID}")]
    handle = await got(sandbox.commands.run("sleep 1000", background=True, timeout=0))
    assert await got(sandbox.pause(mode="filesystem")) is True
    path = f"/sandboxes/{sandbox.sandbox_id}"
    assert live.api.get(path).json()["pauseMode"] == "filesystem"
    again = await got(flavour.Sandbox.connect(sandbox.sandbox_id))
    assert again.sandbox_id == sandbox.sandbox_id
    boots.append(await run(sandbox, f"cat {BOOT_ID}"))  # with the old handle's token
    assert handle.pid not in await pids(sandbox)

    if flavour.blocking:  # the server's part takes seconds, and is the same for both
        assert await got(sandbox.pause()) is True
        assert live.api.get(path).json()["pauseMode"] == "full"
        await got(sandbox.connect(on_resume="reboot"))
        boots.append(await run(sandbox, f"cat {BOOT_ID}"))
    assert len(set(boots)) == len(boots)
    assert await got(sandbox.files.read("kept")) == "in the file system"
    assert await run(sandbox, "echo $GIVEN") == "at create"


async def test_paused_when_its_time_is_over(create: Create) -> None:
    full = await create(timeout=2, lifecycle={"on_timeout": "pause"})
    files = await create(timeout=2, lifecycle={"on_timeout": {"action": "pause", "mode": "filesystem"}})
    before = {}
    for sandbox in (full, files):
        await got(sandbox.files.write("kept", "until the end"))
        before[sandbox] = await run(sandbox, f"cat {BOOT_ID}")
    for sandbox in (full, files):
        await until(partial(paused, sandbox))
        assert await got(sandbox.is_running()) is False
        await got(sandbox.connect())
        assert await got(sandbox.is_running())
        assert await got(sandbox.files.read("kept")) == "until the end"
        assert (await run(sandbox, f"cat {BOOT_ID}") == before[sandbox]) is (sandbox is full)
    await got(full.set_timeout(0))
    await until(lambda: paused(full))


async def test_requests_resume_it_where_that_was_asked_for(create: Create) -> None:
    sandbox = await create(
        timeout=420,
        lifecycle={"on_timeout": "pause", "auto_resume": True},
        network={"allow_public_traffic": False},
    )
    assert (await got(sandbox.get_info())).lifecycle == {"on_timeout": "pause", "auto_resume": True}
    await serve(sandbox)
    await got(sandbox.set_timeout(600))
    await got(sandbox.pause())
    assert visit(sandbox, 8000).status_code == 403
    assert visit(sandbox, 8000, e2b_traffic_access_token="wrong").status_code == 403
    assert visit(sandbox, 49983, "/metrics").status_code == 401
    assert visit(sandbox, 49983, "/metrics", X_Access_Token="wrong").status_code == 401
    assert await paused(sandbox)
    answer = visit(sandbox, 8000, e2b_traffic_access_token=sandbox.traffic_access_token)
    assert (answer.status_code, answer.text) == (200, PAGE)
    info = await got(sandbox.get_info())
    assert info.state == RUNNING
    assert info.end_at - info.started_at == timedelta(seconds=420)


async def test_a_command_resumes_it_and_it_lives_five_minutes_at_least(create: Create) -> None:
    sandbox = await create(timeout=60, lifecycle={"on_timeout": "pause", "auto_resume": True})
    await got(sandbox.set_timeout(0))
    assert await paused(sandbox)
    assert await run(sandbox, "echo awake") == "awake"
    info = await got(sandbox.get_info())
    assert info.state == RUNNING
    assert info.end_at - info.started_at == timedelta(seconds=300)


async def test_a_crowd_resumes_it_once_and_a_pause_turns_nobody_away(clients: dict[str, str], live: Live) -> None:
    with e2b.Sandbox.create(lifecycle={"on_timeout": "pause", "auto_resume": True}) as sandbox:
        path = f"/sandboxes/{sandbox.sandbox_id}"
        named = {
            "Host": sandbox.get_host(49983),
            "X-Access-Token": live.api.get(path).json()["envdAccessToken"],
        }
        client = httpx.AsyncClient(trust_env=False, timeout=PATIENCE, limits=httpx.Limits(max_connections=100))

        async def crowd() -> set[int]:
            asking = (client.get(f"{sandbox.envd_api_url}/health", headers=named) for _ in range(100))
            return {answer.status_code for answer in await asyncio.gather(*asking)}

        async with client:
            sandbox.pause()
            assert await crowd() == {204}
            words = [line["message"] for line in live.api.get(f"/v2{path}/logs").json()["logs"]]
            assert words.count("sandbox resumed") == 1
            pausing = client.post(f"{live.api_url}{path}/pause", headers={"X-API-KEY": live.key})
            answer, statuses = await asyncio.gather(pausing, crowd())
        assert (answer.status_code, statuses) == (204, {204})


async def test_what_cannot_be_asked_for(flavour: Flavour) -> None:
    files_only = {"action": "pause", "mode": "filesystem"}
    for lifecycle in ({"on_timeout": files_only, "auto_resume": True}, {"on_timeout": "kill", "auto_resume": True}):
        with pytest.raises(e2b.InvalidArgumentException):
            await got(flavour.Sandbox.create(lifecycle=lifecycle))
    for call in (flavour.Sandbox.pause, flavour.Sandbox.fork, flavour.Sandbox.create_snapshot):
        with pytest.raises(e2b.SandboxNotFoundException):
            await got(call("nonexistingsandbox"))
    with pytest.raises(e2b.InvalidArgumentException):
        await got(flavour.Sandbox.fork("nonexistingsandbox", count=0))


async def test_forks_go_their_own_ways(create: Create, flavour: Flavour) -> None:
    parent = await create(envs={"GIVEN": "at create"})
    await got(parent.files.write("note", "before"))
    child, other = await got(parent.fork(timeout=60, count=2))
    (grandchild,) = await got(flavour.Sandbox.fork(child.sandbox_id))
    family = [parent, child, other, grandchild]
    try:
        assert len({sandbox.sandbox_id for sandbox in family}) == 4
        for sandbox in family:
            assert await got(sandbox.is_running())
            assert await got(sandbox.files.read("note")) == "before"
            assert await run(sandbox, "echo $GIVEN") == "at create"
        assert len({await run(sandbox, "cat /etc/machine-id") for sandbox in family}) == 4
        for sandbox in family:
            await got(sandbox.files.write("note", sandbox.sandbox_id))
        for sandbox in family:
            assert await got(sandbox.files.read("note")) == await run(sandbox, "hostname") == sandbox.sandbox_id
        info = await got(child.get_info())
        assert info.end_at - info.started_at == timedelta(seconds=60)
    finally:
        for sandbox in family[1:]:
            assert await got(sandbox.kill())
    with pytest.raises(e2b.SandboxNotFoundException):
        await got(child.fork())


@pytest.fixture
async def taken(flavour: Flavour) -> AsyncIterator[list[str]]:
    """Ids of snapshots, to be deleted after the test's sandboxes."""
    taken: list[str] = []
    yield taken
    for snapshot_id in taken:
        await got(flavour.Sandbox.delete_snapshot(snapshot_id))


async def test_snapshots(taken: list[str], create: Create, flavour: Flavour) -> None:
    cls, name = flavour.Sandbox, f"kept-{flavour.name}"

    async def listed(pages: Any) -> list[str]:
        return [snapshot.snapshot_id async for snapshot in each(await got(pages.next_items()))]

    source = await create()
    await got(source.files.write("note", "of the source"))
    memory = await got(source.create_snapshot(name=name))
    taken.append(memory.snapshot_id)
    assert memory.snapshot_id
    assert any(name in full for full in memory.names)
    assert await got(source.files.read("note")) == "of the source"

    one, two = await create(memory.snapshot_id), await create(memory.snapshot_id)
    await got(one.files.write("note", "of one"))
    await got(source.files.write("note", "changed"))
    assert [await got(each.files.read("note")) for each in (one, two)] == ["of one", "of the source"]

    await got(one.commands.run("sleep 1000", background=True, timeout=0))
    files = await got(one.create_snapshot(mode="filesystem"))
    taken.append(files.snapshot_id)
    three = await create(files.snapshot_id)
    assert await got(three.files.read("note")) == "of one"
    assert await pids(one)
    assert await pids(three) == set()

    assert await listed(cls.list_snapshots()) == [files.snapshot_id, memory.snapshot_id]
    assert await listed(one.list_snapshots()) == [files.snapshot_id]
    assert await listed(cls.list_snapshots(name=name)) == [memory.snapshot_id]
    assert await listed(cls.list_snapshots(name="no-such-name")) == []
    pages = cls.list_snapshots(limit=1)
    assert [await listed(pages), pages.has_next] == [[files.snapshot_id], True]
    assert [await listed(pages), pages.has_next] == [[memory.snapshot_id], False]

    with pytest.raises(e2b.SandboxException) as raised:
        await got(cls.delete_snapshot(files.snapshot_id))
    assert raised.value.status_code == 400
    await got(three.kill())
    assert await got(cls.delete_snapshot(files.snapshot_id)) is True
    assert await got(cls.delete_snapshot(files.snapshot_id)) is False
    with pytest.raises(e2b.SandboxException):
        await got(cls.create(files.snapshot_id))
