"""The warm pool: sandboxes that are ready before anybody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.machines import RUNTIMES, Machine, wait_for
from tests.node.conftest import base

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=RUNTIMES)
def pooled(request: pytest.FixtureRequest, built_images: None) -> Iterator[Machine]:
    """A node of its own, with two sandboxes ready."""
    machine = Machine.make([base(request.param)], pool_size=2, pool_max=2)
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


def containers(machine: Machine) -> set[str]:
    return {record["container_id"] for record in machine.records() if record["sandbox_id"] is None and record["pid"]}


def test_pool(pooled: Machine) -> None:
    [build] = [image.build_id for image in pooled.images]
    wait_for(lambda: pooled.node.pool_sizes() == {build: 2})
    ready = containers(pooled)
    first = pooled.create(build)
    assert first.info.started_warm
    taken = first.directory.name
    assert taken in ready
    assert first.sh("hostname; echo $E2B_SANDBOX_ID").split() == [first.id, first.id]
    first.sh("touch /root/used")
    wait_for(lambda: pooled.node.pool_sizes() == {build: 2})
    first.kill()
    seen = set()
    for _ in range(4):
        box = pooled.create(build)
        seen.add(box.directory.name)
        assert box.run("test -e /root/used")[0] == 1
    assert taken not in seen
    assert len(seen) == 4


def test_a_dead_ready_sandbox_is_not_given_out(pooled: Machine) -> None:
    [build] = [image.build_id for image in pooled.images]
    wait_for(lambda: pooled.node.pool_sizes() == {build: 2})
    for sandbox in list(pooled.node._pools.of(build)._ready):
        sandbox.process.kill()
        sandbox.cgroup.kill()
    assert pooled.create(build).sh("echo on") == "on"
    wait_for(lambda: pooled.node.pool_sizes() == {build: 2})
    alive = {record["container_id"] for record in pooled.records()}
    wait_for(lambda: {path.name for path in (pooled.data_dir / "sandboxes").iterdir()} == alive and len(alive) == 3)


def test_twenty_at_once(machine: Machine, runtime: str) -> None:
    boxes = machine.create_many(f"base-{runtime}", 20)
    try:
        assert len({box.id for box in boxes}) == len({box.info.address for box in boxes}) == 20
        assert len({box.sh("cat /etc/machine-id") for box in boxes}) == 20
    finally:
        for box in boxes:
            box.kill()
