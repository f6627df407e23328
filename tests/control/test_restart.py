"""A server that starts again: what runs is adopted, what is gone is closed, what nobody knows is killed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from tests.api.memory_node import MemoryNode

from sandpit.contract.errors import NodeError
from sandpit.contract.node import RunningSandbox, SandboxSpec, SnapshotInfo
from sandpit.control.app import ControlPlane
from sandpit.control.errors import NotFoundError
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.store.models import Sandbox, Usage
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.control.accounts.teams import Identity
    from sandpit.server.settings import Settings

NEW = NewSandbox(template="base", timeout=300, secure=True, env_vars={"A": "1"})


async def identity(control: ControlPlane) -> Identity:
    team = await control.services.teams.find("default")
    assert team is not None
    return control.services.teams.identity(team)


async def test_running_sandboxes_are_adopted(settings: Settings) -> None:
    async with ControlPlane(settings, node := MemoryNode()) as control:
        who = await identity(control)
        made = await control.services.sandboxes.create(who, NEW)
        target = control.directory.find(made.id)
    assert not node.running
    async with ControlPlane(settings, MemoryNode(node.machine)) as control:
        assert control.first_key is None
        assert control.directory.find(made.id) == target is not None
        row, _ = await control.services.sleep.connect(who, made.id, 1)
        assert (row.end_at, row.access_token) == (made.end_at, made.access_token)
        row, _ = await control.services.sleep.connect(who, made.id, 1000)
        assert row.end_at > made.end_at
        await control.services.sandboxes.kill(who, made.id)
        assert not node.machine


async def test_expired_meanwhile_is_killed(settings: Settings) -> None:
    async with ControlPlane(settings, node := MemoryNode()) as control:
        made = await control.services.sandboxes.create(await identity(control), NEW)
        async with control.database.write() as session:
            (await session.get_one(Sandbox, made.id)).end_at = utc_now() - timedelta(seconds=1)
    node = MemoryNode(node.machine)
    async with ControlPlane(settings, node) as control:
        await asyncio.wait_for(node.killing.wait(), 20)
    assert node.killed == [made.id]


async def test_gone_meanwhile_is_closed(settings: Settings) -> None:
    async with ControlPlane(settings, MemoryNode()) as control:
        who = await identity(control)
        made = await control.services.sandboxes.create(who, NEW)
    async with ControlPlane(settings, MemoryNode()) as control:
        with pytest.raises(NotFoundError):
            await control.services.queries.get(who, made.id)
        async with control.database.read() as session:
            row = await session.get_one(Sandbox, made.id)
            used = (await session.scalars(select(Usage))).one()
        assert (row.state, str(row.ended_reason)[:4]) == ("ended", "lost")
        assert used.sandbox_id == made.id
        assert used.vcpu_seconds == pytest.approx(2 * (row.end_at - row.started_at).total_seconds())


async def test_unknown_sandboxes_are_killed(settings: Settings) -> None:
    stray = SandboxSpec("istray", "t", "b", None)
    node = MemoryNode({"istray": stray})
    async with ControlPlane(settings, node):
        assert node.killed == ["istray"]


async def test_a_failing_start_releases_everything(settings: Settings) -> None:
    class Broken(MemoryNode):
        async def start(self) -> list[RunningSandbox]:
            raise NodeError("no runtime")

    control = ControlPlane(settings, Broken())
    with pytest.raises(NodeError):
        await control.__aenter__()
    async with ControlPlane(settings, MemoryNode()) as control:
        assert control.first_key is None


async def test_first_key_is_made_once_and_the_store_is_private(tmp_path: Path, settings: Settings) -> None:
    settings = settings.model_copy(update={"data_dir": tmp_path / "new"})
    async with ControlPlane(settings, MemoryNode()) as control:
        key = str(control.first_key)
        assert (await control.services.keys.authenticate(key)).slug == "default"
    database = tmp_path / "new" / "sandpit.db"
    assert database.stat().st_mode & 0o777 == 0o600
    assert key.encode() not in database.read_bytes()


@pytest.mark.parametrize(
    ("state", "runs", "kept", "becomes"),
    [
        ("running", True, True, "running"),
        ("pausing", True, False, "running"),
        ("pausing", True, True, "paused"),
        ("pausing", False, True, "paused"),
        ("running", False, True, "paused"),
        ("paused", False, True, "paused"),
        ("paused", True, True, "paused"),
        ("paused", True, False, "running"),
        ("pausing", False, False, "ended"),
        ("paused", False, False, "ended"),
    ],
)
async def test_whatever_a_pause_or_resume_got_to(
    settings: Settings, state: str, runs: bool, kept: bool, becomes: str
) -> None:
    """A record, a container, a snapshot: what is left of them decides, and the rest is removed."""
    async with ControlPlane(settings, before := MemoryNode()) as control:
        who = await identity(control)
        made = await control.services.sandboxes.create(who, NEW)
        async with control.database.write() as session:
            row = await session.get_one(Sandbox, made.id)
            row.state, row.pause_mode = state, "full" if state == "paused" else None
    node = MemoryNode(before.machine if runs else {})
    if kept:
        node.kept[made.id] = SnapshotInfo(made.id, made.build_id, True, 5)
    async with ControlPlane(settings, node) as control:
        async with control.database.read() as session:
            row = await session.get_one(Sandbox, made.id)
        assert row.state == becomes
        assert (made.id in node.machine) == (becomes == "running")
        assert (made.id in node.kept) == (becomes == "paused")
        assert control.services.sandboxes.running() == (becomes == "running")
        if becomes == "paused":
            resumed, again = await control.services.sleep.connect(who, made.id, 10)
            assert again
            assert resumed.state == "running"
            assert not node.kept
