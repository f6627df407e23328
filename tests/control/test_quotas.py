"""Quotas are reserved before anything is awaited: callers at once cannot pass them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy.exc import OperationalError
from tests.api.conftest import api_client
from tests.api.memory_node import MemoryNode
from tests.api.test_builds import link, request, start
from tests.api.test_pause import AUTO, paused, post

from sandpit.contract.directory import WakeRefusedError
from sandpit.control.app import ControlPlane
from sandpit.control.lifecycle import records
from sandpit.lib.ledger import DiskLedger, Ledger, OverLimit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    import httpx

    from sandpit.contract.node import SnapshotInfo
    from sandpit.server.settings import Settings

MIB = 1 << 20


class SlowNode(MemoryNode):
    """Everything takes a few turns of the loop, and shows how much went on at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    async def create(self, spec: Any) -> Any:
        await asyncio.sleep(0.01)
        made = await super().create(spec)
        self.most = max(self.most, len(self.machine))
        return made

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        await asyncio.sleep(0.01)
        return await super().snapshot(sandbox_id, snapshot_id, memory=memory, end=end)

    async def build_bytes(self, tenant: str) -> int:
        await asyncio.sleep(0.01)
        return await super().build_bytes(tenant)


@pytest.fixture
def node() -> SlowNode:
    return SlowNode()


@pytest.fixture
def limits() -> dict[str, int]:
    """What a test overrides."""
    return {}


@pytest.fixture
async def plane(settings: Settings, node: SlowNode, limits: dict[str, int]) -> AsyncIterator[ControlPlane]:
    changed = settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})
    async with ControlPlane(changed, node) as control:
        yield control


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(plane, plane.first_key) as client:
        yield client


def count(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


@pytest.mark.parametrize("limits", [{"max_sandboxes": 2}])
async def test_resumes_creates_and_requests(client: httpx.AsyncClient, plane: ControlPlane, node: SlowNode) -> None:
    ids = [await paused(client, **AUTO) for _ in range(6)]
    answers = await asyncio.gather(*(post(client, sandbox_id, "connect", {"timeout": 60}) for sandbox_id in ids))
    assert count(list(answers)) == {201: 2, 429: 4}
    for sandbox_id, answer in zip(ids, answers, strict=True):
        if answer.status_code == 201:
            await post(client, sandbox_id, "pause")

    async def wake(sandbox_id: str) -> int:
        try:
            return 201 if await plane.directory.wake(sandbox_id) else 404
        except WakeRefusedError as error:
            return error.status

    creates = [client.post("/v2/sandboxes", json={"templateID": "base"}) for _ in range(3)]
    mixed: list[Awaitable[int | httpx.Response]] = [
        *(wake(sandbox_id) for sandbox_id in ids[:3]),
        *(post(client, it, "resume") for it in ids[3:]),
    ]
    results = await asyncio.gather(*mixed, *creates)
    statuses = Counter(result if isinstance(result, int) else result.status_code for result in results)
    assert statuses == {201: 2, 429: 7}
    assert (node.most, len(node.machine)) == (2, 2)
    assert plane.services.sandboxes.running() == 2


@pytest.mark.parametrize("limits", [{"max_sandboxes": 3}])
async def test_forks_and_resumes(client: httpx.AsyncClient, node: SlowNode) -> None:
    ids = [await paused(client) for _ in range(4)]
    origin = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    await asyncio.gather(post(client, origin, "fork", {"count": 4}), *(post(client, it, "resume") for it in ids))
    assert (node.most, len(node.machine)) == (3, 3)


@pytest.mark.parametrize(("limits", "fit"), [({"snapshots_mb": 1}, 1), ({"snapshots_mb": 3}, 3)])
async def test_pauses(client: httpx.AsyncClient, plane: ControlPlane, node: SlowNode, fit: int) -> None:
    """A MemoryNode's snapshot has 1 MiB, and its estimates are gigabytes."""
    ids = [(await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"] for _ in range(20)]
    answers = await asyncio.gather(*(post(client, sandbox_id, "pause") for sandbox_id in ids))
    assert count(list(answers)) == {204: fit, 429: 20 - fit}
    assert await plane.services.quota.used() == fit * MIB
    assert len(node.kept) == fit


@pytest.mark.parametrize("limits", [{"snapshots_mb": 2}])
async def test_pauses_snapshots_and_forks(client: httpx.AsyncClient, plane: ControlPlane) -> None:
    ids = [(await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"] for _ in range(9)]
    actions = ("pause", "snapshots", "fork")
    answers = await asyncio.gather(*(post(client, it, actions[number % 3]) for number, it in enumerate(ids)))
    assert {answer.status_code for answer in answers} <= {201, 204, 429}
    assert await plane.services.quota.used() == 2 * MIB
    assert plane.services.quota._disk.held((await plane.services.teams.list_all())[0].id) == 0


@pytest.mark.parametrize("limits", [{"snapshots_mb": 2}])
async def test_one_sandbox_is_saved_in_several_ways_at_once(client: httpx.AsyncClient) -> None:
    """Whoever waits for disk holds the sandbox; in another order they would wait for each other."""
    sandbox_id = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    actions = ("fork", "snapshots", "pause", "fork", "snapshots")
    answers = await asyncio.gather(*(post(client, sandbox_id, action) for action in actions))
    assert {answer.status_code for answer in answers} <= {201, 204, 404, 409, 429}


@pytest.mark.parametrize("limits", [{"snapshots_mb": 1}])
async def test_a_pause_that_is_not_written_down_counts(
    client: httpx.AsyncClient, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [
        (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"] for _ in range(2)
    ]

    def fail(*_: object) -> None:
        raise OperationalError("UPDATE sandboxes", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(records, "pause_sandbox", fail)
        assert (await post(client, first, "pause")).status_code == 500
    (team,) = await plane.services.teams.list_all()
    assert plane.services.quota._disk.held(team.id) == MIB
    waiting = asyncio.create_task(post(client, second, "pause"))
    await asyncio.sleep(0.05)
    assert not waiting.done(), "it would not fit"
    assert (await client.delete(f"/sandboxes/{first}")).status_code == 204
    assert (await waiting).status_code == 204


async def test_builds_under_way(client: httpx.AsyncClient, plane: ControlPlane, node: SlowNode) -> None:
    plane.services.builds.limits.waiting = 2
    node.hold_build = asyncio.Event()
    wanted = [await request(client, f"t{number}") for number in range(6)]
    answers = await asyncio.gather(*(start(client, made) for made in wanted))
    assert count(list(answers)) == {202: 2, 429: 4}
    node.hold_build.set()
    while plane.services.builds._running:
        await asyncio.sleep(0.01)
    assert plane.services.builds._slots._held == {}


@pytest.mark.parametrize("limits", [{"templates_mb": 2}])
async def test_template_disk(client: httpx.AsyncClient, plane: ControlPlane, node: SlowNode) -> None:
    """A MemoryNode's build has 1 MiB."""
    wanted = [await request(client, f"t{number}") for number in range(6)]
    await asyncio.gather(*(start(client, made) for made in wanted))
    while plane.services.builds._running:
        await asyncio.sleep(0.01)
    assert len(node.built) == 2


async def test_uploads(client: httpx.AsyncClient, plane: ControlPlane, settings: Settings) -> None:
    """Also while they come, archives fit the team's share together, and none of them takes another's place half-way."""
    uploads = plane.services.builds.uploads
    uploads._archive_bytes, uploads._team_bytes = 1000, 2500
    template = (await request(client))["templateID"]
    paths = [urlsplit((await link(client, template, f"{number}" * 64))["url"]).path for number in range(6)]
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        begun.release()
        yield bytes(500)
        await go_on.wait()
        yield bytes(500)

    async def put(path: str) -> int:
        return (await client.put(path, content=slowly(), headers={"Content-Length": "1000"})).status_code

    tasks = [asyncio.create_task(put(path)) for path in paths]
    done, _ = await asyncio.wait(tasks, timeout=1)
    go_on.set()
    assert Counter([task.result() for task in done]) == {429: 4}
    assert Counter([await task for task in tasks]) == {200: 2, 429: 4}
    stored = sum(path.stat().st_size for path in settings.data_dir.glob("uploads/*/*"))
    assert stored == 2000
    assert (await client.put(paths[0], content=bytes(1000))).status_code == 200
    assert sum(path.stat().st_size for path in settings.data_dir.glob("uploads/*/*")) <= 2500
    assert uploads._coming._held == uploads._under_way._held == {}


def test_a_reservation_is_given_back_once() -> None:
    ledger = Ledger()
    with ledger.reserve("team", 2, limit=2) as held:
        with pytest.raises(OverLimit):
            ledger.reserve("team", limit=2)
        held.settle(1)
        heir = held.hand_over()
    held.release()
    assert ledger.held("team") == 1
    heir.release()
    heir.release()
    assert ledger.held("team") == 0


async def test_disk_that_is_counted_while_it_is_settled() -> None:
    """A count that began before another's reservation ended may have missed what that one made: it is repeated."""
    used, counting, go_on = 0, asyncio.Event(), asyncio.Event()

    async def count_used(_: str) -> int:
        before = used
        counting.set()
        await go_on.wait()
        return before

    disk = DiskLedger(count_used)
    go_on.set()
    async with disk.reserve("team", 1, 2):
        go_on.clear()
        counting.clear()

        async def another() -> None:
            async with disk.reserve("team", 1, 2):
                pass

        task = asyncio.create_task(another())
        await counting.wait()
        used = 2
    go_on.set()
    with pytest.raises(OverLimit):
        await task
