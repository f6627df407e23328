"""Guests that do not answer, in real sandboxes: who has root in one can stop its agent at any moment. Nobody else waits for it."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.machines import RUNTIMES, Box, Machine, wait_for
from tests.node.conftest import base

from sandpit.contract.errors import AgentUnresponsive, NodeError
from sandpit.contract.node import SandboxSpec
from sandpit.node.guests.agent import AgentUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_names = itertools.count(1)
HOLD = r"""
cat > /root/hold.py <<'END'
import ctypes, os, time
while %s:
    time.sleep(0.001)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(16, 1, 0, 0) == 0  # PTRACE_ATTACH
time.sleep(1000)
END
(setsid python3 /root/hold.py > /dev/null 2>&1 &) ; sleep 0.3
"""
AT_ONCE = "not os.path.exists('/root/now')"
WHEN_TOLD_OF_A_SNAPSHOT = "not os.path.exists('/run/sandpit/freezing')"


def answers(machine: Machine, box: Box) -> bool:
    try:
        machine.wait(machine.node._sandboxes[box.id].agent.unfreeze(0.5))
    except AgentUnavailable:
        return False
    return True


def hold(machine: Machine, box: Box) -> None:
    """Have root in the sandbox stop the agent."""
    box.sh(HOLD % AT_ONCE)
    box.sh("(sleep 0.2; touch /root/now) > /dev/null 2>&1 &")
    wait_for(lambda: not answers(machine, box))


def test_a_held_agent_delays_no_end(machine: Machine, box: Box, create: Callable[..., Box]) -> None:
    """A snapshot of it fails, or says so, in bounded time; meanwhile others start, and then it is killed at once."""
    hold(machine, box)
    with ThreadPoolExecutor(1) as pool:
        announced = pool.submit(machine.wait, machine.node.announce_snapshot(box.id))
        assert create().sh("echo on") == "on"
        with pytest.raises(AgentUnresponsive):
            announced.result(30)
    process = machine.node._sandboxes[box.id].process
    box.kill()
    assert not process.alive()


def running(machine: Machine) -> set[str]:
    """gVisor's records of containers that it has started."""
    return {path.name for path in (machine.run_dir / "runsc").glob("*.state")}


@pytest.fixture
def snapshots(machine: Machine) -> Iterator[list[str]]:
    """Names of snapshots that go with the test."""
    names: list[str] = []
    yield names
    for name in names:
        machine.wait(machine.node.remove_snapshot(name))


@pytest.mark.parametrize("runtime", ["gvisor"])
def test_restored_guests_that_do_not_answer_keep_nobody_from_starting(
    machine: Machine, create: Callable[..., Box], snapshots: list[str], runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are as many as may start at a time, and all of them are waited for when somebody else comes."""
    monkeypatch.setattr("sandpit.node.sandboxes.launcher._AGENT_START_SECONDS", 14.0)
    box = create()
    box.sh(HOLD % WHEN_TOLD_OF_A_SNAPSHOT)
    machine.wait(machine.node.announce_snapshot(box.id))
    wait_for(lambda: not answers(machine, box))
    snapshots.append(f"held-{next(_names)}")
    info = machine.wait(machine.node.snapshot(box.id, snapshots[0], memory=True, end=True))
    assert info.responsive
    before = running(machine)
    specs = [
        SandboxSpec(f"h{next(_names)}", "base", info.build_id, None, tenant="hostile", snapshot_id=info.snapshot_id)
        for _ in range(max(2, os.cpu_count() or 2))
    ]
    with ThreadPoolExecutor(len(specs)) as pool:
        held = [pool.submit(machine.wait, machine.node.create(spec)) for spec in specs]
        wait_for(lambda: len(running(machine) - before) == len(specs))
        other = create()
        assert not any(one.done() for one in held)
        assert other.sh("echo on") == "on"
        for one in held:
            with pytest.raises(NodeError, match="did not answer"):
                one.result(50)


def test_a_node_ends_while_agents_are_held(built_images: None) -> None:
    """Those of sandboxes that are being announced a snapshot, too; and the next node takes them over as they are."""
    machine = Machine.make([base(runtime) for runtime in RUNTIMES])
    machine.start()
    try:
        boxes = [machine.create(f"base-{runtime}") for runtime in RUNTIMES]
        for box in boxes:
            hold(machine, box)
        machine.stop(kill_sandboxes=False)
        assert {one.sandbox_id for one in machine.start()} == {box.id for box in boxes}
        with ThreadPoolExecutor(len(boxes)) as pool:
            announced = [pool.submit(machine.wait, machine.node.announce_snapshot(box.id)) for box in boxes]
            machine.stop()
            assert all(isinstance(one.exception(30), NodeError) for one in announced)
    finally:
        machine.stop()
        machine.remove()
