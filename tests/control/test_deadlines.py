"""Every sandbox ends, or is paused, at its deadline: whatever became of its timer."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import uvloop
from sqlalchemy.exc import OperationalError
from tests.api.memory_node import MemoryNode

from sandpit.contract.errors import NodeError
from sandpit.control import core as core_module
from sandpit.control.app import ControlPlane
from sandpit.control.errors import SandboxFailedError
from sandpit.control.lifecycle import records, sweeping
from sandpit.control.lifecycle.expiry import ExpirySchedule
from sandpit.control.lifecycle.live import Live
from sandpit.control.lifecycle.requests import NewSandbox
from sandpit.control.lifecycle.sleep import PAUSE_GRACE_SECONDS
from sandpit.store.models import Sandbox
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.control.accounts.teams import Identity
    from sandpit.server.settings import Settings

NEW = NewSandbox(template="base", timeout=300, secure=True)
PAUSED = NewSandbox(template="base", timeout=300, secure=True, auto_pause=True)


@pytest.fixture
async def who(control: ControlPlane) -> Identity:
    return await control.services.keys.authenticate(str(control.first_key))


async def running(control: ControlPlane, who: Identity, new: NewSandbox = NEW) -> Live:
    row = await control.services.sandboxes.create(who, new)
    live = control._core.live.get(row.id)
    assert live is not None
    return live


async def state(control: ControlPlane, live: Live) -> str:
    async with control.database.read() as session:
        return (await session.get_one(Sandbox, live.sandbox_id)).state


async def swept(control: ControlPlane, done: Callable[[], bool]) -> None:
    """Sweep as the background work does, until something is so."""
    while not done():
        await control.sweeper.sweep()
        await asyncio.sleep(0.005)


def test_no_timer_fires_early_and_none_is_lost() -> None:
    """On the server's event loop, whose timers count in whole milliseconds."""

    async def main() -> tuple[int, int]:
        deadlines: dict[str, float] = {}
        fired: dict[str, float] = {}
        done = asyncio.Event()

        def expire(name: str) -> None:
            fired.setdefault(name, schedule.now())
            schedule.cancel(name)
            if len(fired) == len(deadlines):
                done.set()

        schedule = ExpirySchedule(expire)
        for number in range(5000):
            deadlines[str(number)] = schedule.now() + random.uniform(0.05, 2)
        for name, deadline in deadlines.items():
            schedule.set(name, deadline)
        await done.wait()
        return len(fired), sum(fired[name] < deadline for name, deadline in deadlines.items())

    assert uvloop.run(main()) == (5000, 0)


def test_fractional_deadlines_of_a_control_plane(settings: Settings) -> None:
    """The decision and the timer agree: without the sweep, all of them end."""

    async def main() -> int:
        async with ControlPlane(settings, MemoryNode()) as control:
            core = control._core
            for number in range(1000):
                live = Live(f"i{number}", "team", "running", deadline=core.expiry.now() + random.uniform(0.05, 2))
                core.live.add(live)
                core.expiry.set(live.sandbox_id, live.deadline)
            control.sweeper.sweep = None  # type: ignore[assignment,method-assign]
            while list(core.live):
                await asyncio.sleep(0.05)
            return len(core.expiry._deadlines)

    assert uvloop.run(main()) == 0


async def test_a_timer_that_finds_it_not_due_leaves_a_timer(control: ControlPlane, who: Identity) -> None:
    for new in (NEW, PAUSED):
        live = await running(control, who, new)
        control._core.expiry.cancel(live.sandbox_id)
        await control._core.time_out(live, only_when_due=True)
        assert live.state == "running"
        assert live.sandbox_id in control._core.expiry._timers
        control._core._expire(live.sandbox_id)


async def test_a_lost_timer(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    live, later = await running(control, who), await running(control, who)
    for lost in (live, later):
        control._core.expiry.cancel(lost.sandbox_id)
    live.deadline = control._core.expiry.now() - 20
    assert [item.sandbox_id for item in control.sweeper.overdue()] == [live.sandbox_id]
    await swept(control, lambda: live.state == "ended")
    assert node.killed == [live.sandbox_id]
    assert control._core.expiry.due_at(later.sandbox_id) == later.deadline
    assert control.sweeper.overdue() == []


async def test_a_suspended_machine(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop's timers have not run on, the clock of deadlines has."""
    live, paused = await running(control, who), await running(control, who, PAUSED)
    awake = control._core.expiry.now
    monkeypatch.setattr(control._core.expiry, "now", lambda: awake() + 3600)
    await swept(control, lambda: (live.state, paused.state) == ("ended", "paused"))
    assert node.killed == [live.sandbox_id]


async def test_a_wall_clock_that_is_set_forward(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end that clients were shown has passed."""
    live, later = (
        await running(control, who),
        await running(control, who, NewSandbox(template="base", timeout=3600, secure=True)),
    )
    ahead = lambda: utc_now() + timedelta(seconds=600)  # noqa: E731
    for module in (core_module, sweeping):
        monkeypatch.setattr(module, "utc_now", ahead)
    await swept(control, lambda: live.state == "ended")
    assert later.state == "running"
    assert node.killed == [live.sandbox_id]


async def test_a_wall_clock_that_is_set_back(
    control: ControlPlane, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives as long as it was to, and shows when that will be."""
    live = await running(control, who)
    shown = live.end_at
    assert shown is not None
    behind = lambda: utc_now() - timedelta(seconds=600)  # noqa: E731
    for module in (core_module, sweeping):
        monkeypatch.setattr(module, "utc_now", behind)
    await control.sweeper.sweep()
    row = await control.services.queries.get(who, live.sandbox_id)
    assert row.end_at == live.end_at
    assert abs((shown - row.end_at).total_seconds() - 600) < 60
    assert live.deadline > control._core.expiry.now()


@pytest.mark.parametrize("part", ["node", "store"])
async def test_an_end_that_fails(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr("sandpit.control.lifecycle.ending.KILL_RETRY_SECONDS", 0.01)
    live = await running(control, who)
    close = records.close_sandbox

    def fail(*_: object) -> None:
        raise OperationalError("UPDATE sandboxes", {}, Exception("disk I/O error"))

    if part == "node":
        node.fail_kill = NodeError("stuck")
    else:
        monkeypatch.setattr(records, "close_sandbox", fail)
    live.deadline = control._core.expiry.now() - 20
    with pytest.raises((SandboxFailedError, OperationalError)):
        await control._core.time_out(live, only_when_due=True)
    control._core.expiry.clear()  # and its timer is lost, too
    await control.sweeper.sweep()
    assert [item.state for item in control.sweeper.overdue()] == ["ending"]
    node.fail_kill = None
    monkeypatch.setattr(records, "close_sandbox", close)
    await swept(control, lambda: live.state == "ended")
    assert await state(control, live) == "ended"


async def test_a_pause_that_fails(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sleep", "pausing"):
        monkeypatch.setattr(f"sandpit.control.lifecycle.{name}.PAUSE_RETRY_SECONDS", 0.01)
    live = await running(control, who, PAUSED)
    live.deadline = control._core.expiry.now() - 20
    node.fail_snapshot = NodeError("disk full")
    await control._core.time_out(live, only_when_due=True)
    assert live.state == "running"
    assert [item.state for item in control.sweeper.overdue()] == ["running"]
    control._core.expiry.clear()
    node.fail_snapshot = None
    await swept(control, lambda: live.state == "paused" and live.unrecorded is None)
    assert await state(control, live) == "paused"


async def test_a_pause_that_always_fails_does_not_keep_it_alive(
    control: ControlPlane, node: MemoryNode, who: Identity
) -> None:
    """Nor does a team's full disk: both are in the hands of the sandbox's owner."""
    live = await running(control, who, PAUSED)
    node.fail_snapshot = NodeError("no checkpoint of this")
    live.deadline = live.last_deadline = control._core.expiry.now() - PAUSE_GRACE_SECONDS - 1
    await control._core.time_out(live, only_when_due=True)
    assert await state(control, live) == "ended"


async def test_a_pause_that_nobody_is_doing(control: ControlPlane, node: MemoryNode, who: Identity) -> None:
    live = await running(control, who)
    live.become("pausing")
    await control.sweeper.sweep()
    assert live.state == "running"
    live.deadline = control._core.expiry.now()
    await swept(control, lambda: live.state == "ended")


async def test_a_row_that_no_sandbox_has(control: ControlPlane, who: Identity) -> None:
    """What a create leaves whose commit was made and not heard of."""
    live = await running(control, who)
    async with control.database.write() as session:
        (await session.get_one(Sandbox, live.sandbox_id)).end_at = utc_now() - timedelta(seconds=120)
    control._core.live.remove(live)
    control._core.expiry.clear()
    await control.sweeper.sweep(rows=True)
    assert await state(control, live) == "ended"
    assert live.sandbox_id not in control._core.node.machine  # type: ignore[attr-defined]


async def test_a_sandbox_that_belongs_to_nobody(
    control: ControlPlane, node: MemoryNode, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create and a resume that could not be written down, and whose sandbox could not be killed at once."""
    paused = await running(control, who)
    await control.services.sleep.pause(who, paused.sandbox_id)

    def fail(*_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(records, "insert_sandbox", fail)
        patch.setattr(records, "resume_sandbox", fail)
        node.fail_kill = NodeError("stuck")
        with pytest.raises(OperationalError):
            await control.services.sandboxes.create(who, NEW)
        with pytest.raises(OperationalError):
            await control.services.sleep.connect(who, paused.sandbox_id, 10)
        with pytest.raises(SandboxFailedError, match="remains"):
            await control.services.sleep.connect(who, paused.sandbox_id, 10)
    assert len(node.machine) == 2
    node.fail_kill = None
    await control.sweeper.sweep()
    assert not node.machine
    assert (await control.services.sleep.connect(who, paused.sandbox_id, 10))[1] is True


async def test_a_sweep_that_fails_is_not_the_last(
    control: ControlPlane, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await running(control, who)
    rounds = 0
    look = control.sweeper._look_at

    def stumble(it: Live) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a defect")
        look(it)

    monkeypatch.setattr(sweeping, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(control.sweeper, "_look_at", stumble)
    control._core.expiry.clear()
    live.deadline = control._core.expiry.now() - 1
    task = asyncio.create_task(control.sweeper.run())
    while live.state != "ended":
        await asyncio.sleep(0.01)
    task.cancel()
    assert rounds > 1
