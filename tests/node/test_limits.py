"""A sandbox can use up what it has, and nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.machines import wait_for

from sandpit.contract.errors import NodeError
from sandpit.node.snapshots.images import load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machines import Box, Machine

    Create = Callable[..., Box]


def test_memory_bomb(create: Create, machine: Machine) -> None:
    neighbour, bomb = create(), create(memory_mb=256)
    neighbour.sh("echo mine > /root/file")
    try:
        status, _ = bomb.run("python3 -c 'a = [bytearray(b\"x\") * (1 << 24) for _ in range(100)]'")
        assert status != 0
    except NodeError:  # the whole sandbox may be gone, and its agent with it
        wait_for(lambda: bomb.id in machine.gone)
    if bomb.id in machine.gone:
        assert machine.gone[bomb.id] == "out of memory (limit 256 MiB)"
        assert bomb.id not in machine.node._sandboxes
    else:
        assert bomb.sh("echo on") == "on"
    assert neighbour.sh("cat /root/file") == "mine"


def test_memory_in_tmpfs_counts(create: Create, machine: Machine) -> None:
    """/dev/shm is bounded to half of the memory."""
    box = create(memory_mb=256)
    status, output = box.run("dd if=/dev/zero of=/dev/shm/x bs=1M count=200")
    assert status != 0
    assert "No space" in output
    assert box.sh("rm /dev/shm/x; echo on") == "on"


def test_fork_bomb(create: Create, machine: Machine) -> None:
    neighbour, bomb = create(), create(pids=64)
    try:
        bomb.run("(i=0; while [ $i -lt 3000 ]; do sleep 100 & i=$((i+1)); done) >/dev/null 2>&1; true")
    except NodeError:
        wait_for(lambda: bomb.id in machine.gone)
        assert machine.gone[bomb.id] == "too many processes (limit 64)"
    else:
        assert sum(_threads(pid) for pid in bomb.processes) <= 64 + 512
        bomb.kill()
    assert neighbour.sh("echo fine") == "fine"


def _threads(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))


def test_disk_full(create: Create) -> None:
    box = create(disk_mb=64)
    status, output = box.run("dd if=/dev/zero of=/big bs=1M count=200")
    assert status != 0
    assert "No space left on device" in output
    url = f"http://{box.info.address}:49983/files"
    answer = httpx.post(url, params={"path": "/more", "username": "root"}, files={"file": b"x" * 5_000_000}, timeout=30)
    assert answer.status_code == 507, answer.text
    assert box.sh("echo on") == "on"
    box.sh("rm /big; dd if=/dev/zero of=/small bs=1M count=10")


def test_disk_size_is_told(create: Create) -> None:
    box = create(disk_mb=64)
    size = int(box.sh("df -k --output=size / | tail -1"))
    assert 50 * 1024 < size <= 64 * 1024
    box.sh("dd if=/dev/urandom of=/ten bs=1M count=10; sync")
    metrics = box.metrics()
    assert metrics.disk_total == 64 << 20
    assert metrics.disk_used >= 10 << 20


def test_memory_size_is_told(create: Create, runtime: str) -> None:
    if runtime == "crun":
        pytest.xfail("containers see the host's /proc/meminfo")
    box = create(memory_mb=256)
    total = int(box.sh("awk '/^MemTotal/ {print $2}' /proc/meminfo"))
    assert 200 * 1024 <= total <= 400 * 1024


def test_processors(create: Create) -> None:
    box = create(cpu_count=1)
    box.metrics()
    began = time.monotonic()
    box.run("timeout 2 sh -c 'while :; do :; done' & timeout 2 sh -c 'while :; do :; done' & wait")
    took = time.monotonic() - began
    metrics = box.metrics()
    assert metrics.cpu_count == 1
    assert 5 < metrics.cpu_used_pct <= 100
    with_quota = box.machine.node._sandboxes[box.id].cgroup.usage().cpu_seconds
    assert with_quota < took + 3


def test_descriptors_run_out_inside_only(box: Box) -> None:
    output = box.python(
        "import os\nn = 0\ntry:\n    while True: os.open('/dev/null', os.O_RDONLY); n += 1\n"
        "except OSError as error: print(error.errno)"
    )
    assert output == "24"
    assert box.sh("echo on") == "on"


def test_a_flood_of_output_stays_bounded(box: Box) -> None:
    """All of it is read; its last MiB is kept."""
    assert len(box.sh("head -c 20000000 /dev/zero | tr '\\0' x")) == 1 << 20
    assert box.sh("echo on") == "on"


def test_the_nodes_defaults(machine: Machine, runtime: str) -> None:
    """A template that asks for nothing gets what the node's settings say."""
    [image] = [one for one in machine.node.templates() if one.build_id == f"base-{runtime}"]
    assert (image.cpu_count, image.memory_mb) == (2, 512)
    config = replace(machine.node._config, cpu_count=3, memory_mb=768)
    loaded = load(config, f"base-{runtime}")
    assert (loaded.cpu_count, loaded.memory_mb) == (3, 768)
