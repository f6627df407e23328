"""Background work: samples, retention, counters written behind requests; and how the whole ends."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select
from tests.api.memory_node import BASE, MemoryNode

from sandpit.control.app import ControlPlane
from sandpit.control.background import Maintenance, Sampler
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.control.settings import Retention
from sandpit.control.templates.cleaning import Cleaner
from sandpit.store.models import ApiKey, MetricSample, Sandbox, SandboxLog, Template
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sandpit.server.settings import Settings

NEW = NewSandbox(template="base", timeout=300, secure=True)


async def count(control: ControlPlane, table: type[MetricSample | SandboxLog | Sandbox]) -> int:
    async with control.database.read() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


async def test_old_records_go_and_running_sandboxes_stay(control: ControlPlane) -> None:
    services = control.services
    who = await services.keys.authenticate(str(control.first_key))
    ended, running = [await services.sandboxes.create(who, NEW) for _ in range(2)]
    await services.sandboxes.kill(who, ended.id)
    long_ago = utc_now() - timedelta(days=60)
    async with control.database.write() as session:
        for sandbox_id in (ended.id, running.id):
            row = await session.get_one(Sandbox, sandbox_id)
            row.started_at = row.end_at = long_ago
        for log in await session.scalars(select(SandboxLog)):
            log.timestamp = long_ago
    maintenance = Maintenance(
        control.database, services.keys, services.templates, Cleaner(control.database, MemoryNode()), Retention()
    )
    await maintenance.clean()
    assert await count(control, SandboxLog) == 0
    assert await count(control, Sandbox) == 1
    assert (await services.queries.get(who, running.id)).id == running.id


async def test_what_requests_left_in_memory_is_written_down(control: ControlPlane) -> None:
    services = control.services
    who = await services.keys.authenticate(str(control.first_key))
    for _ in range(3):
        await services.sandboxes.create(who, NEW)
    await Maintenance(
        control.database, services.keys, services.templates, Cleaner(control.database, MemoryNode()), Retention()
    ).clean()
    async with control.database.read() as session:
        template = await session.get_one(Template, BASE.template_id)
        key = (await session.scalars(select(ApiKey))).one()
    assert template.spawn_count == 3
    assert template.last_spawned_at is not None
    assert key.last_used_at is not None


async def test_a_sandbox_that_cannot_be_measured_spoils_nothing(control: ControlPlane, node: MemoryNode) -> None:
    services = control.services
    who = await services.keys.authenticate(str(control.first_key))
    broken, fine = [await services.sandboxes.create(who, NEW) for _ in range(2)]
    del node.machine[broken.id]
    await Sampler(control.database, node, services.sandboxes.live, 60).sample()
    assert await services.queries.metrics(who, fine.id, None, None)
    live = services.sandboxes.live.get(fine.id)
    assert live is not None
    assert live.metric is not None


async def test_changes_under_way_are_finished_before_the_end(settings: Settings) -> None:
    node = MemoryNode()
    node.hold_create = asyncio.Event()
    async with ControlPlane(settings, node) as control:
        who = await control.services.keys.authenticate(str(control.first_key))
        create = asyncio.create_task(control.services.sandboxes.create(who, NEW))
        await node.creating.wait()
        asyncio.get_running_loop().call_later(0.1, node.hold_create.set)
    made = await create
    async with ControlPlane(settings, MemoryNode(node.machine)) as control:
        assert (await control.services.queries.get(who, made.id)).id == made.id


async def test_the_callers_exception_is_passed_on_as_it_is(settings: Settings) -> None:
    node = MemoryNode()
    with pytest.raises(ZeroDivisionError):
        async with ControlPlane(settings, node):
            raise ZeroDivisionError
    assert not node.running
