"""Who starts when: fairness between tenants, and how many sandboxes are kept ready."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.machines import Machine, image, new_name, wait_for
from tests.node.conftest import base

from sandpit.contract.errors import CapacityExhausted
from sandpit.lib.turns import FairTurns
from sandpit.node.config import NodeConfig
from sandpit.node.host.capacity import Capacity
from sandpit.node.host.load import Load
from sandpit.node.host.share import Share
from sandpit.node.pool.admission import Admission
from sandpit.node.pool.demand import Demand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def serve(turns: FairTurns, tenant: str, served: list[str]) -> None:
    async with turns.turn(tenant):
        served.append(tenant)
        await asyncio.sleep(0)


async def test_tenants_are_served_in_turn() -> None:
    turns, served = FairTurns(1), list[str]()
    async with turns.turn("many"):
        order = ["many"] * 10 + ["one", "two", "one"]
        tasks = [asyncio.create_task(serve(turns, tenant, served)) for tenant in order]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert served[:6] == ["many", "one", "two", "many", "one", "many"]
    assert sorted(served) == sorted(order)


async def test_who_gives_up_takes_no_place() -> None:
    turns, served = FairTurns(2), list[str]()
    tasks = [asyncio.create_task(serve(turns, f"t{number % 3}", served)) for number in range(30)]
    for number in range(4):
        await asyncio.sleep(0)
        for task in tasks[number::5]:
            task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    # Both places are free again: two can hold them at once.
    async with asyncio.timeout(5), turns.turn("a"), turns.turn("b"):
        pass


async def test_a_place_is_given_back_once() -> None:
    """Early by who goes on without one, and not again at the end: there are never more holders than places."""
    turns = FairTurns(1)
    async with turns.turn("a") as release:
        release()
        release()
        async with asyncio.timeout(5), turns.turn("b"):
            third = asyncio.create_task(serve(turns, "c", []))
            await asyncio.sleep(0.05)
            assert not third.done()
        await asyncio.wait_for(third, 5)
    assert turns._free == 1


def test_demand_is_the_highest_burst_lately() -> None:
    demand = Demand(2, 10)
    assert demand.wanted(0.0) == 2
    for number in range(6):
        demand.ask(number / 10)
    assert demand.wanted(1.0) == 6
    demand.ask(60.0)
    assert demand.wanted(61.0) == 6
    assert demand.next_change(61.0) == 59.5
    assert demand.wanted(130.0) == 2
    for _ in range(50):
        demand.ask(200.0)
    assert demand.wanted(200.0) == 10
    assert Demand(0, 0).wanted(0.0) == 0


@contextmanager
def admission(path: Path, **options: Any) -> Iterator[Admission]:
    """Of a node that has control groups of its own and nothing else."""
    config = NodeConfig(path, path, new_name(), **options)
    share = Share(config)
    share.prepare()
    try:
        yield Admission(config, share, Load(share.group, share.limits.cpus))
    finally:
        share.remove()


async def hold(line: Admission, tenant: str, over: asyncio.Event) -> None:
    async with line.turn(image("base", memory_mb=512), tenant):
        await over.wait()


async def test_the_line_is_bounded(tmp_path: Path) -> None:
    with admission(tmp_path, create_queue=3) as line:
        over = asyncio.Event()
        at_once = line._at_once
        tasks = [asyncio.create_task(hold(line, f"t{number}", over)) for number in range(at_once + 3)]
        await asyncio.sleep(0.05)
        with pytest.raises(CapacityExhausted, match="3 sandboxes wait"):
            await hold(line, "one more", over)
        over.set()
        await asyncio.gather(*tasks)
        await hold(line, "later", over)
    with admission(tmp_path, create_seconds=0.2) as line:
        # Starts have become so slow that who waits would wait in vain; and who waited has an end, too.
        over = asyncio.Event()
        tasks = [asyncio.create_task(hold(line, "a", over)) for _ in range(at_once + 1)]
        await asyncio.sleep(0.05)
        line._start_seconds = 1.0
        with pytest.raises(CapacityExhausted, match=r"a start takes 1\.0 s"):
            await hold(line, "b", over)
        with pytest.raises(CapacityExhausted, match="no turn to start"):
            await tasks[-1]
        over.set()
        await asyncio.gather(*tasks[:-1])


async def test_a_full_node_refuses(tmp_path: Path) -> None:
    over = asyncio.Event()
    over.set()
    with admission(tmp_path, memory_reserve_mb=1 << 24, full_seconds=0.5) as line:
        began = time.monotonic()
        with pytest.raises(CapacityExhausted, match="0 MiB of memory left for sandboxes, and a start needs 64 MiB"):
            await hold(line, "a", over)
        assert time.monotonic() - began >= 0.5, "there could have been room soon"
        with pytest.raises(CapacityExhausted):
            await asyncio.wait_for(hold(line, "b", over), 0.4)
        line._share._config = replace(line._share._config, memory_reserve_mb=0)
        line.observe()
        await hold(line, "a", over)
    with admission(tmp_path, least_cpu=1.0, full_seconds=0.0) as line:
        line._load.room = Capacity(1.75, 2)
        line._load.used = {"c1": 0.875, "c2": 0.875, "c3": 0.001}
        with pytest.raises(
            CapacityExhausted, match=r"2 sandboxes of this node compute and share 1\.75 processors: 0\.583"
        ):
            await hold(line, "a", over)


async def test_who_waits_when_the_server_stops_is_refused(tmp_path: Path) -> None:
    with admission(tmp_path) as line:
        over = asyncio.Event()
        tasks = [asyncio.create_task(hold(line, "a", over)) for _ in range(line._at_once + 2)]
        await asyncio.sleep(0.05)
        line.seal()
        for task in (*tasks[-2:], asyncio.create_task(hold(line, "b", over))):
            with pytest.raises(CapacityExhausted, match="stopping"):
                await asyncio.wait_for(task, 5)
        over.set()
        await asyncio.gather(*tasks[:-2])


def test_a_start_that_takes_too_long_is_undone(built_images: None) -> None:
    machine = Machine.make([base("gvisor")], create_seconds=0.1)
    machine.start()
    try:
        [build] = [image.build_id for image in machine.images]
        machine.wait(machine.node._templates.source(build))
        with pytest.raises(CapacityExhausted, match=r"did not start within 0\.1 s"):
            machine.create(build)
        wait_for(lambda: not list((machine.data_dir / "sandboxes").iterdir()))
        wait_for(lambda: not machine.node._tasks._running)
        assert not machine.node._slots._used
    finally:
        machine.stop()
        machine.remove()


def test_pools_give_way(built_images: None) -> None:
    machine = Machine.make([base("gvisor")], pool_size=2, pool_max=2)
    machine.start()
    try:
        [build] = [image.build_id for image in machine.images]
        wait_for(lambda: machine.node.pool_sizes() == {build: 2})
        share = machine.node._share
        usual, share.limits = share.limits, replace(share.limits, memory_mb=1)
        wait_for(lambda: machine.node.pool_sizes() == {build: 0})
        time.sleep(1.2)  # one look, at which it would start another
        assert machine.node.pool_sizes() == {build: 0}, "none is started while there is no room"
        share.limits = usual
        wait_for(lambda: machine.node.pool_sizes() == {build: 2})
    finally:
        machine.stop()
        machine.remove()
