"""Who starts when: fairness between tenants, and how many sandboxes are kept ready."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sandpit.node.demand import Demand
from sandpit.node.turns import FairTurns


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
