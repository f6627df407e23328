"""A sandbox that needs more memory than it has loses its largest process, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.machines import Machine, new_name, wait_for
from tests.node.conftest import base

from sandpit.contract.errors import NodeError
from sandpit.node.host.cgroups import Cgroup, LimitValues
from sandpit.node.memory.guard import RESERVE_MB, Bounds, Guarded, MemoryGuard, chosen
from sandpit.node.runtime import gvisor_control
from sandpit.node.runtime.base import GuestProcess, RuntimeFailed
from sandpit.node.runtime.crun import Crun

if TYPE_CHECKING:
    from tests.machines import Box

    from sandpit.contract.node import GuestEvent

    Create = Callable[..., Box]

MEMORY_MB = 256
MIB = 1 << 20
TAKE = """
import mmap, sys, time
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for _ in range(size >> 20): memory.write(b"1" * (1 << 20))
print("has it", flush=True)
time.sleep(60)
"""


@pytest.fixture
def box(create: Create) -> Box:
    """A small sandbox with the program that takes memory."""
    box = create(memory_mb=MEMORY_MB)
    box.sh(f"cat > /root/take.py <<'END'\n{TAKE}\nEND")
    return box


@pytest.fixture
def events(machine: Machine) -> list[GuestEvent]:
    """What is told of all sandboxes from now on."""
    found: list[GuestEvent] = []
    machine.node.on_events(lambda _, events: found.extend(events))
    return found


def held_mb(box: Box) -> int:
    return box.machine.node._sandboxes[box.id].cgroup.memory_in_use() >> 20


def peak_mb(box: Box) -> int:
    """The most that it has held, page cache included."""
    group = box.machine.node._sandboxes[box.id].cgroup.memory_directory()
    return int((group / "memory.max_usage_in_bytes").read_text()) >> 20


def start(box: Box, size_mb: int) -> None:
    box.sh(f"nohup python3 /root/take.py {size_mb} >/root/out.{size_mb} 2>&1 &")


def test_the_largest_process_dies(box: Box, events: list[GuestEvent]) -> None:
    """Files, other processes and the agent stay; what the sandbox has can be had again."""
    start(box, 40)
    wait_for(lambda: "has it" in box.sh("cat /root/out.40"))
    box.sh("echo mine > /root/file; echo mine > /dev/shm/file; sleep 100 >/dev/null 2>&1 & echo $! > /root/pid")
    status, output = box.run("python3 /root/take.py 2000; echo status $?")
    assert (status, output.strip().splitlines()[-1]) == (0, "status 137")
    assert box.sh("cat /root/file /dev/shm/file; kill -0 $(cat /root/pid) && pgrep -f 'take.py 40'").startswith(
        "mine\nmine\n"
    )
    wait_for(lambda: held_mb(box) < MEMORY_MB)
    assert box.sh("timeout 3 python3 /root/take.py 80; true") == "has it"
    [event] = [event for event in events if event.logger == "sandbox"]
    assert event.level == "warn"
    assert event.message.startswith("out of memory: killed process ")
    assert event.message.endswith(" MiB")
    assert "(python3)" in event.message


def test_fast_ones_at_once(box: Box) -> None:
    """Several that write to new memory as fast as the machine can: all that is too much dies, and nothing else."""
    start(box, 20)
    wait_for(lambda: "has it" in box.sh("cat /root/out.20"))
    commands = " ".join(f"(python3 /root/take.py {1500 + number}; echo $? >> /root/statuses) &" for number in range(4))
    assert box.run(f"{commands} wait")[0] == 0
    assert box.sh("cat /root/statuses").split() == ["137"] * 4
    assert box.sh("pgrep -f 'take.py 20'")
    sandbox = box.machine.node._sandboxes[box.id]
    assert sandbox.cgroup.usage().out_of_memory_kills == 0
    assert peak_mb(box) < MEMORY_MB + 128 + RESERVE_MB * 2


def test_page_cache_is_no_need(create: Create) -> None:
    """Files larger than all memory are written and read; nobody dies of it."""
    box = create(memory_mb=128)
    box.sh("sleep 100 >/dev/null 2>&1 & echo $! > /root/pid")
    box.sh("dd if=/dev/zero of=/root/big bs=1M count=400 && cat /root/big > /dev/null && kill -0 $(cat /root/pid)")
    assert box.machine.node._sandboxes[box.id].memory_kills == 0


def test_memory_that_no_process_has(box: Box, machine: Machine, runtime: str) -> None:
    """Files in memory: who writes them dies; then only the sandbox's end helps."""
    if runtime == "crun":
        pytest.skip("all file systems in memory are smaller than the sandbox's")
    box.sh("mkdir /root/memory && mount -t tmpfs memory /root/memory")
    try:
        for number in range(100):
            box.run(f"dd if=/dev/zero of=/root/memory/{number} bs=1M count=100")
    except NodeError:
        pass
    wait_for(lambda: box.id in machine.gone)
    assert machine.gone[box.id] == f"out of memory (limit {MEMORY_MB} MiB)"


def test_a_storm(box: Box, machine: Machine) -> None:
    """Processes that start others all the time: the sandbox stays and answers, or ends saying why."""
    sandbox = machine.node._sandboxes[box.id]
    storm = "while :; do python3 /root/take.py 120 >/dev/null 2>&1 & sleep 0.05; done"
    box.sh(f"nohup sh -c '{storm}' >/dev/null 2>&1 &")
    deadline = time.monotonic() + 30
    try:
        while sandbox.memory_kills < 5 and box.id not in machine.gone:
            assert time.monotonic() < deadline
            assert box.sh("echo on") == "on"
    except NodeError:
        wait_for(lambda: box.id in machine.gone)
    if box.id in machine.gone:
        assert machine.gone[box.id].startswith(("out of memory", "too many processes"))


def test_a_guest_that_does_not_cooperate(box: Box) -> None:
    """Its agent is stopped: the host needs nobody's help."""
    start(box, 1500)
    sandbox = box.machine.node._sandboxes[box.id]
    if sandbox.runtime == "gvisor":
        box.sh("nohup sh -c 'sleep 0.2; kill -STOP 1' >/dev/null 2>&1 &")
    wait_for(lambda: sandbox.memory_kills > 0)
    wait_for(lambda: held_mb(box) < MEMORY_MB)
    assert sandbox.process.alive()


def test_what_watches_ends_with_the_sandbox(create: Create) -> None:
    before = alarms()
    box = create()
    assert alarms() == before + 1
    box.kill()
    wait_for(lambda: alarms() == before)


async def test_a_watch_that_never_began_leaves_nothing(built_images: None, tmp_path: Path) -> None:
    """One that is ended before its first step."""
    before, group, guard = alarms(), Cgroup(f"/{new_name()}"), MemoryGuard()
    group.create(LimitValues(1, 64, 64))
    try:
        driver = Crun(Path("/usr/bin/true"), tmp_path)  # nobody asks it for anything
        limits = Bounds(64 * MIB, 128 * MIB, 1e9)
        for _ in range(3):
            guard.watch(Guarded("c1", group, driver, limits, asyncio.Lock(), lambda _: None, lambda: None))
            assert alarms() > before
            guard.forget("c1")
        await guard.close()
        assert alarms() == before
    finally:
        group.remove()


def test_it_is_watched_after_the_servers_end(runtime: str) -> None:
    machine = Machine.make([base(runtime, memory_mb=MEMORY_MB)])
    machine.start()
    try:
        box = machine.create(f"base-{runtime}")
        machine.stop(kill_sandboxes=False)
        [found] = machine.start()
        box = machine.box(found)
        box.sh(f"cat > /root/take.py <<'END'\n{TAKE}\nEND")
        assert box.sh("python3 /root/take.py 2000; echo status $?").splitlines()[-1] == "status 137"
    finally:
        machine.stop()
        machine.remove()


def alarms() -> int:
    """Event descriptors of this process."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(link) == "anon_inode:[eventfd]"
    return found


Sentry = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def sentry_that_says(*pieces: bytes) -> Sentry:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        writer.close()

    return answer


STATUS = (
    b'{"exe":"/x","args":["\\"status\\":{\\"pid\\":9}"],"status":{"comm":"a","pid":7,"ppid":1,"vm_rss":2048},"maps":[]}'
)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ((b'{"success":true,"err":"","result":[', STATUS, b"]}"), [(7, 2 << 20)]),
        (tuple(bytes([byte]) for byte in STATUS), [(7, 2 << 20)]),
        ((STATUS.replace(b'"maps":[]', b'"maps":[' + b"0," * 400_000 + b"0]"), STATUS), [(7, 2 << 20)] * 2),
        ((b'"status":{"pid":"7"}', b'"status":{"pid":7,"vm_rss":-1}', b'"status":[' * 500, b'"status":'), []),
    ],
)
async def test_what_a_sentry_says_is_read_in_pieces(
    tmp_path: Path, pieces: tuple[bytes, ...], found: list[tuple[int, int]]
) -> None:
    server = await asyncio.start_unix_server(sentry_that_says(*pieces), tmp_path / "sentry")
    async with server:
        processes = await gvisor_control.processes(tmp_path / "sentry")
    assert [(process.pid, process.resident) for process in processes] == found


async def test_a_sentry_that_says_nothing_or_too_much(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed):
        await gvisor_control.processes(tmp_path / "none")
    for pieces in ((), (b"0" * MIB,) * 70):
        path = tmp_path / f"sentry{len(pieces)}"
        async with await asyncio.start_unix_server(sentry_that_says(*pieces), path):
            with pytest.raises(RuntimeFailed):
                await gvisor_control.processes(path)


def process(pid: int, resident_mb: int, adjustment: int = 0, name: str = "python3") -> GuestProcess:
    return GuestProcess(pid, name, resident_mb * MIB, adjustment)


def pids(found: list[GuestProcess] | None) -> list[int] | None:
    return None if found is None else [one.pid for one in found]


def test_whom_to_kill() -> None:
    small, middle, large = process(2, 10), process(3, 100), process(4, 300)
    everybody = [small, middle, large]
    memory = 512 * MIB
    assert pids(chosen(everybody, (), MIB, memory)) == [4]
    assert pids(chosen(everybody, (), 350 * MIB, memory)) == [4, 3]
    assert pids(chosen(everybody, {4}, 350 * MIB, memory)) == [3], "what dies already counts"
    assert pids(chosen(everybody, {4}, 250 * MIB, memory)) == [], "and may be enough"
    assert pids(chosen(everybody, (), 411 * MIB, memory)) is None, "nothing helps"
    assert pids(chosen([], (), 1, memory)) is None


def test_the_score_is_the_usual_one() -> None:
    memory = 500 * MIB
    assert pids(chosen([process(2, 10, 1000), process(3, 300)], (), MIB, memory)) == [2]
    assert pids(chosen([process(2, 200, -500), process(3, 100)], (), MIB, memory)) == [3]
    assert pids(chosen([process(2, 200, -1000)], (), MIB, memory)) is None
    assert pids(chosen([process(2, 90, name="ld.so"), process(3, 10)], (), MIB, memory)) == [3]
