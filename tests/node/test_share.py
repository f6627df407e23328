"""What all sandboxes together may use, and what a new one would get of it."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.machines import RUNTIMES, Machine, new_name, wait_for
from tests.node.conftest import base

from sandpit.node.config import NodeConfig
from sandpit.node.host.capacity import Counters
from sandpit.node.host.cgroups import Cgroup, LimitValues, is_unified
from sandpit.node.host.load import Load, newcomers_share
from sandpit.node.host.share import Share, planned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path("/sys/fs/cgroup")


def scheduled(wanted: list[float], capacity: float) -> list[float]:
    """What a fair scheduler gives, a thousandth of the capacity at a time to whoever has least and wants more."""
    got = [0.0] * len(wanted)
    for _ in range(1000):
        hungry = [index for index, want in enumerate(wanted) if got[index] < want - 1e-9]
        if not hungry:
            break
        least = min(hungry, key=lambda index: got[index])
        got[least] = min(wanted[least], got[least] + capacity / 1000)
    return got


def test_a_newcomer_gets_what_a_fair_scheduler_gives() -> None:
    chance = random.Random(12)
    for _ in range(60):
        capacity = chance.uniform(0.5, 4)
        wanted = [chance.choice((0.001, 0.02, 0.3, 2.0)) for _ in range(chance.randrange(0, 12))]
        newcomers = chance.randrange(1, 3)
        used = scheduled(wanted, capacity)
        expected = min(scheduled(used + [capacity] * newcomers, capacity)[-newcomers:])
        assert newcomers_share(used, capacity, newcomers) == pytest.approx(expected, abs=0.01 * capacity)


def test_a_newcomer_on_an_empty_node_gets_all() -> None:
    assert newcomers_share([], 1.75) == 1.75
    assert newcomers_share([0.001] * 300, 1.75) == pytest.approx(1.45)
    assert newcomers_share([0.0875] * 20, 1.75) == pytest.approx(1.75 / 21)


LEAST = 0.05
"""Of a processor, what a newcomer must get (`least_cpu`)."""


def newcomer(idle: float, used: list[float], throttled: float = 0.0, limit: float = 1.75) -> float:
    """What it would get on a machine of two processors that has been like that for a while."""
    load = Load(Cgroup("/none"), limit)
    for second in range(10):
        load.room.measure(Counters(idle * second, sum(used) * second, throttled * second), 1.0)
    load.used = {f"c{number}": one for number, one in enumerate(used)}
    return load.share()


def test_light_sandboxes_do_not_make_a_machine_full() -> None:
    assert newcomer(1.9, [0.06]) > 1.6
    assert newcomer(1.0, [0.03] * 29) > 0.8
    # Other work on the machine takes all the rest: the group's weight still gives it a third.
    assert newcomer(0.0, []) == pytest.approx(2 / 3)
    assert newcomer(0.0, [0.001] * 300) > 0.3
    assert newcomer(0.0, [0.05]) > 0.6
    assert newcomer(0.0, [0.05] * 8) > LEAST
    # Not even in short bursts, each of which uses the quota up.
    assert newcomer(1.9, [0.06], throttled=0.2) > 0.8
    assert newcomer(1.0, [0.0825] * 10, throttled=0.2) > LEAST


def test_one_that_computes_leaves_half() -> None:
    assert newcomer(0.2, [1.75], throttled=0.9) == pytest.approx(0.875)
    assert newcomer(0.0, [0.6, 0.01]) > 0.3
    assert newcomer(0.9, [1.0]) == pytest.approx(0.875), "it keeps to one of two processors, but may leave that"


@pytest.mark.parametrize("got", [1.75, 1.0, 0.667, 0.5])
def test_many_that_compute_make_a_machine_full(got: float) -> None:
    """Whatever other work leaves them, and unevenly."""
    used = [got / 20 * uneven for uneven in (0.75, 1.25)] * 10
    assert newcomer(0.0, used) == pytest.approx(max(got, 2 / 3) / 21, rel=0.01)
    halves = [one / 2 for one in used] * 2
    assert newcomer(0.0, halves) < LEAST
    assert newcomer(2 - got, halves, throttled=0.9, limit=got) < LEAST, "their quota keeps them from more"


def test_some_is_kept_for_the_server(tmp_path: Path) -> None:
    config = NodeConfig(tmp_path, tmp_path)
    usual = planned(config)
    assert planned(NodeConfig(tmp_path, tmp_path, sandbox_cpus=1000, sandbox_memory_mb=1 << 40)) == usual
    assert planned(NodeConfig(tmp_path, tmp_path, reserved_cpus=1000)).cpus == 0.25
    small = planned(NodeConfig(tmp_path, tmp_path, sandbox_cpus=0.333, sandbox_memory_mb=200))
    assert (small.cpus, small.memory_mb) == (0.33, 200)
    assert planned(NodeConfig(tmp_path, tmp_path, memory_reserve_mb=1024)).memory_mb == usual.memory_mb - 512


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    """A group with a quarter of a processor, in which plain processes stand for sandboxes."""
    share = Share(NodeConfig(tmp_path, tmp_path, new_name(), sandbox_cpus=0.25, sandbox_memory_mb=256))
    share.prepare()
    yield share
    asyncio.run(share.group.kill_all())
    share.remove()


def spinning(share: Share, name: str) -> subprocess.Popen[bytes]:
    """A process in a group of its own that never waits."""
    group = Cgroup(f"{share.group.path}/{name}")
    group.create(LimitValues(0.25, 64, 10))
    join = "".join(f"echo $$ > {path}/cgroup.procs; " for path in group.directories())
    return subprocess.Popen(["/bin/sh", "-c", f"{join} while :; do :; done"])


def seen(load: Load, what: Callable[[], bool]) -> None:
    """Look until it is so."""

    def look() -> bool:
        time.sleep(0.3)
        load.look()
        return what()

    wait_for(look)


def test_those_that_compute_are_seen_and_end_at_once(share: Share) -> None:
    load = Load(share.group, share.limits.cpus)
    load.look()
    assert load.share() == pytest.approx(0.25)
    processes = [spinning(share, f"c{number}") for number in range(5)]
    # Whether the quota or other work on the machine keeps them from more: they and a newcomer would have the same.
    seen(load, lambda: load.computing() == 5 and 0 < load.share() < 0.25 / 6 * 1.3)
    assert load.share(starting=3) < load.share()
    for process in processes[:4]:
        process.kill()
        process.wait()
    seen(load, lambda: load.computing() == 1)
    asyncio.run(share.group.kill_all())
    assert processes[4].wait(10) == -9
    seen(load, lambda: load.share() > 0.22)
    load.close()


def test_memory_is_counted_below_the_limit(share: Share) -> None:
    assert 200 < share.available_mb() <= 256
    group = Cgroup(f"{share.group.path}/c1")
    group.create(LimitValues(0.25, 200, 10))
    join = "".join(f"echo $$ > {path}/cgroup.procs; " for path in group.directories())
    hold = (
        "x = bytearray(100 << 20); x[::4096] = b'x' * len(x[::4096]); print(1, flush=True); import time; time.sleep(60)"
    )
    with subprocess.Popen(
        ["/bin/sh", "-c", f'{join} exec {sys.executable} -c "$0"', hold], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert share.available_mb() < 156
        process.kill()
    assert share.available_mb() > 200


@pytest.fixture(params=RUNTIMES)
def small(request: pytest.FixtureRequest, built_images: None) -> Iterator[Machine]:
    """A node with one processor and 1 GiB for all sandboxes."""
    machine = Machine.make([base(request.param)], sandbox_cpus=1.0, sandbox_memory_mb=1024)
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


def quota(machine: Machine, *below: str) -> float:
    """Processors that a group may use."""
    if is_unified():
        most, period = Path(ROOT, machine.name, *below, "cpu.max").read_text().split()
        return int(most) / int(period)
    group = Path(ROOT, "cpu", machine.name, *below)
    return int((group / "cpu.cfs_quota_us").read_text()) / int((group / "cpu.cfs_period_us").read_text())


def test_limits_are_in_force_and_survive_the_server(small: Machine) -> None:
    box = small.create(small.images[0].build_id)
    assert quota(small) == quota(small, box.directory.name) == 1
    memory = (
        Path(ROOT, small.name, "memory.max")
        if is_unified()
        else Path(ROOT, "memory", small.name, "memory.limit_in_bytes")
    )
    assert int(memory.read_text()) == 1024 << 20
    assert box.sh("echo on") == "on"
    # An operator gives sandboxes less: those that run go on, within it.
    small.stop(kill_sandboxes=False)
    small.options = {**small.options, "sandbox_cpus": 0.5, "sandbox_memory_mb": 900}
    [found] = small.start()
    assert quota(small) == quota(small, box.directory.name) == 0.5
    assert int(memory.read_text()) == 900 << 20
    assert small.box(found).sh("echo on") == "on"
    # Somebody takes the limit away: that is seen.
    share = Share(small.node._config)
    assert share.differences() == ""
    memory.write_text(str(2000 << 20))
    assert "memory" in share.differences()
