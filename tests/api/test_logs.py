"""Events of sandboxes on their way into the store: order, where to go on, how much is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import delete
from tests.api.conftest import api_client
from tests.api.memory_node import MemoryNode

from sandpit.contract.node import GuestEvent
from sandpit.control.app import ControlPlane
from sandpit.control.logs import guests as guestlogs
from sandpit.control.settings import Retention
from sandpit.store.models import Sandbox

if TYPE_CHECKING:
    import httpx
    import pytest

    from sandpit.server.settings import Settings


def events(*messages: str, first: int = 0) -> list[GuestEvent]:
    first = first or time.time_ns() // 1000
    return [GuestEvent(first + n, "info", "process", text, {"n": str(n)}) for n, text in enumerate(messages)]


async def made(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v2/sandboxes", json={"templateID": "base"})
    sandbox_id: str = answer.json()["sandboxID"]
    return sandbox_id


async def told(client: httpx.AsyncClient, sandbox_id: str, **query: str) -> list[str]:
    answer = await client.get(f"/v2/sandboxes/{sandbox_id}/logs", params=query)
    return [line["message"] for line in answer.json()["logs"]]


async def test_what_has_come_is_read_at_once(client: httpx.AsyncClient, node: MemoryNode) -> None:
    one, other = await made(client), await made(client)
    node.tell(one, events("a", "b"))
    node.tell(other, events("c"))
    assert await told(client, one) == ["sandbox created", "a", "b"]
    assert await told(client, other, loggers="proc") == ["c"]


async def test_it_is_written_without_a_reader(
    control: ControlPlane, client: httpx.AsyncClient, node: MemoryNode
) -> None:
    name = await made(client)
    node.tell(name, events("a"))
    async with api_client(control, control.first_key) as reader:
        # `search` and all other filters read what is in the store.
        while "a" not in await told(reader, name, search="a"):
            pass
    await client.delete(f"/sandboxes/{name}")
    assert await told(client, name) == ["sandbox created", "a", "sandbox ended: killed"]


async def test_a_log_goes_on_where_it_ended(settings: Settings, node: MemoryNode) -> None:
    """After a restart of the server, and when it resumes; a new sandbox's begins at its beginning."""
    position = time.time_ns() // 1000
    async with ControlPlane(settings, node) as control, api_client(control, control.first_key) as client:
        name, key = await made(client), control.first_key
        while name not in node.followed:
            await client.get("/sandboxes")
        assert node.followed[name] == 0
        node.tell(name, events("a", "b", first=position))
    again = MemoryNode(node.machine)
    async with ControlPlane(settings, again) as control, api_client(control, key) as client:
        while name not in again.followed:
            await client.get("/sandboxes")
        assert again.followed[name] == position + 1
        assert await told(client, name) == ["a", "b", "sandbox created"] or "b" in await told(client, name)


async def test_only_the_newest_lines_are_kept(
    settings: Settings, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guestlogs, "TRIM_SECONDS", 0.0)
    settings = settings.model_copy(update={"retention": Retention(logs_per_sandbox=100)})
    async with ControlPlane(settings, node) as control, api_client(control, control.first_key) as client:
        name, other = await made(client), await made(client)
        node.tell(other, events("kept"))
        node.tell(name, events(*map(str, range(150))))
        while len(lines := await told(client, name)) > 100:
            pass
        assert lines == [str(n) for n in range(50, 150)]
        assert "kept" in await told(client, other)


async def test_all_logs_together_are_limited(
    settings: Settings, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guestlogs, "TRIM_SECONDS", 0.0)
    settings = settings.model_copy(update={"retention": Retention(logs_total=1000)})
    async with ControlPlane(settings, node) as control, api_client(control, control.first_key) as client:
        names = [await made(client) for _ in range(3)]
        for name in names:
            node.tell(name, events(*map(str, range(500))))
        while await told(client, names[0]):
            pass
        assert len(await told(client, names[2])) == 500


async def test_events_of_a_forgotten_sandbox_harm_no_other(
    control: ControlPlane, client: httpx.AsyncClient, node: MemoryNode
) -> None:
    gone, name = await made(client), await made(client)
    async with control.database.write() as session:
        await session.execute(delete(Sandbox).where(Sandbox.id == gone))
    node.tell(gone, events("a"))
    node.tell(name, events("b"))
    assert await told(client, gone) == []
    assert "b" in await told(client, name)


async def test_a_store_that_is_behind_bounds_what_waits(
    client: httpx.AsyncClient, node: MemoryNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guestlogs, "MAX_WAITING", 5)
    monkeypatch.setattr(guestlogs, "MAX_AT_ONCE", 5)
    monkeypatch.setattr(guestlogs, "TEAM_SHARE", 1.0)
    name = await made(client)
    node.tell(name, events(*"abcdefgh"))
    assert await told(client, name, loggers="process") == list("abcde")
    assert "3 events of sandboxes of team" in caplog.text


async def test_one_team_leaves_room_for_the_others_events(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guestlogs, "MAX_WAITING", 40)
    monkeypatch.setattr(guestlogs, "MAX_AT_ONCE", 20)
    loud, louder, quiet = await made(client), await made(client), await made(stranger)
    for name in (loud, louder, loud):
        node.tell(name, events(*map(str, range(100))))
    node.tell(quiet, events("heard"))
    assert "heard" in await told(stranger, quiet)
    assert len(await told(client, loud, loggers="process")) + len(await told(client, louder, loggers="process")) == 10


async def test_one_teams_lines_push_out_no_others(
    settings: Settings, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guestlogs, "TRIM_SECONDS", 0.0)
    settings = settings.model_copy(update={"retention": Retention(logs_per_team=100)})
    async with ControlPlane(settings, node) as control, api_client(control, control.first_key) as client:
        team = await control.services.teams.create("Others")
        _, key = await control.services.keys.create(team.id, "key")
        async with api_client(control, key) as other:
            quiet = await made(other)
            node.tell(quiet, events("kept"))
            assert "kept" in await told(other, quiet)
            names = [await made(client) for _ in range(3)]
            for name in names:
                node.tell(name, events(*map(str, range(80))))
            while sum([len(await told(client, name)) for name in names]) > 100:
                pass
            assert "kept" in await told(other, quiet)
            assert len(await told(client, names[-1])) >= 80, "the newest stay"
