"""Many idle sandboxes at once: what they cost, and whether the machine still answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import e2b
import psutil

from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement, Target
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.host.idling import CALM_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.rig import Rig

NAME = "crowd"
_NETWORK = "10.180.0.0/22"
"""Room for a thousand."""
_SECONDS = 20
_SOME = 10


def measure(count: int) -> Iterator[Measurement]:
    """Raises: LeakError."""
    creates, ends = Clock(), Clock()
    ids: list[str] = []
    with rig(pool=0, SANDPIT_SANDBOX_NETWORK=_NETWORK, SANDPIT_LIMITS__MAX_SANDBOXES=str(count)) as made:
        for _ in range(count):
            creates.time(lambda: ids.append(made.create()))
        time.sleep(CALM_SECONDS + 5)
        each, server = _share(made)
        load, memory = psutil.getloadavg()[0], psutil.virtual_memory().available / 2**30
        status, command, kill = _answers(made, ids)
        ends.time(lambda: made.live.cli("down", "--sandboxes"))
    note = f"load {load:.1f}, {memory:.1f} GiB of memory left"
    targets = (Target("p50", 0.2),)
    yield Measurement(f"CPU of each of {count} idle sandboxes", "% of one", each, targets=targets, note=note)
    yield Measurement("CPU of the server meanwhile", "% of one", [server])
    first, last = creates.values[:_SOME], creates.values[-_SOME:]
    yield Measurement(f"create number {count - _SOME + 1} to {count}", "ms", last, "1 to 10", first, paired=False)
    for name, values in (("status", status), ("command in one of them", command), ("kill", kill)):
        yield Measurement(f"{name} beside {count}", "ms", values, targets=(Target("max", 2000),))
    yield Measurement(f"down --sandboxes with {count}", "ms", ends.values)


def _share(made: Rig) -> tuple[list[float], float]:
    """Percent of one processor that each sandbox uses, and the server."""
    group = Path("/sys/fs/cgroup/cpuacct" if not _unified() else "/sys/fs/cgroup", made.live.name)
    groups = [Cgroup(f"/{made.live.name}/{path.name}") for path in group.iterdir() if path.is_dir()]
    server = psutil.Process(made.live.process.pid)
    began, before, own = time.monotonic(), [one.usage().cpu_seconds for one in groups], sum(server.cpu_times()[:2])
    time.sleep(_SECONDS)
    after, more = [one.usage().cpu_seconds for one in groups], sum(server.cpu_times()[:2])
    passed = (time.monotonic() - began) / 100
    return [(b - a) / passed for a, b in zip(before, after, strict=True)], (more - own) / passed


def _unified() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _answers(made: Rig, ids: list[str]) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of the server's status, of a first command in a sandbox that was idle, and of a kill."""
    status, command, kill = Clock(), Clock(), Clock()
    for sandbox_id in [ids.pop() for _ in range(_SOME)]:
        status.time(lambda: made.control.get("/status").raise_for_status())
        sandbox = e2b.Sandbox.connect(sandbox_id)
        time.sleep(CALM_SECONDS + 2)
        command.time(lambda one=sandbox: one.commands.run("echo hi"))  # type: ignore[misc]
        kill.time(lambda one=sandbox_id: made.kill(one))  # type: ignore[misc]
    return status.values, command.values, kill.values
