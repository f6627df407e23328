"""A hundred idle sandboxes: what each holds and uses, and what they cost the next create."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bare import Bare
from benchmarks.rig import Rig, rig
from benchmarks.series import Clock, Measurement, Target
from sandpit.node.host.cgroups import Cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "idle"


def measure(scale: Scale) -> Iterator[Measurement]:
    count, creates = scale.runs(100, 5), scale.runs(15, 2)
    with rig(pool=0) as made:
        bare = Bare(made)
        first, first_bare = _creates(made, bare, creates)
        idle = [made.create() for _ in range(count)]
        time.sleep(scale.runs(10, 1))  # what a start leaves running
        groups = [Cgroup(f"/{made.live.name}/{made.record(one)['container_id']}") for one in idle]
        resident, private = zip(*(_memory(group) for group in groups), strict=True)
        share = _cpu_share(groups, scale.runs(20, 2))
        after, after_bare = _creates(made, bare, creates)
        for one in idle:
            made.kill(one)
    targets = (Target("p50", 30),)
    yield Measurement(f"idle sandbox (of {count}): PSS", "MiB", resident)
    yield Measurement(f"idle sandbox (of {count}): private memory", "MiB", private, targets=targets)
    yield Measurement(f"idle sandbox (of {count}): CPU", "% of one", share, targets=(Target("p50", 0.2),))
    name = f"create beside {count} idle ones"
    note = _beside(first_bare, after_bare)
    yield Measurement(name, "ms", after, "beside none", first, (Target("ratio", 1.3),), note, paired=False)


def _beside(before: list[float], after: list[float]) -> str:
    return f"runsc restore by hand took {min(before):.0f} ms (best) beside none and {min(after):.0f} ms beside them"


def _creates(made: Rig, bare: Bare, runs: int) -> tuple[list[float], list[float]]:
    """Times of creates, and of restores by hand in between."""
    clock, references = Clock(), []
    for _ in range(runs):
        made.settle()
        created: list[str] = []
        clock.time(lambda got=created: got.append(made.create()))  # type: ignore[misc]
        made.kill(created[0])
        made.settle()
        references.append(bare.restore())
    return clock.values, references


def _memory(group: Cgroup) -> tuple[float, float]:
    """Proportional and private resident MiB of all processes of a sandbox (proc(5), smaps_rollup)."""
    proportional = private = 0
    for pid in group.processes():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, number = line.split()[:2]
            if name == "Pss:":
                proportional += int(number)
            elif name.startswith("Private_"):
                private += int(number)
    return proportional / 1024, private / 1024


def _cpu_share(groups: list[Cgroup], seconds: int) -> list[float]:
    """Percent of one processor that each sandbox uses."""
    began = time.monotonic()
    before = [group.usage().cpu_seconds for group in groups]
    time.sleep(seconds)
    after = [group.usage().cpu_seconds for group in groups]
    passed = time.monotonic() - began
    return [100 * (b - a) / passed for a, b in zip(before, after, strict=True)]
