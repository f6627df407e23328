"""Creating with an empty pool: a restore, and what Sandpit adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bare import Bare
from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "cold"


def measure(scale: Scale) -> Iterator[Measurement]:
    with rig(pool=0) as made:
        for template, runs in (("base", scale.runs(25, 3)), ("code-interpreter-v1", scale.runs(15, 1))):
            bare = Bare(made, template)
            clock, references = Clock(), []
            for _ in range(runs):
                made.settle()
                created: list[str] = []
                clock.time(lambda got=created, name=template: got.append(made.create(name)))  # type: ignore[misc]
                made.kill(created[0])
                made.settle()
                references.append(bare.restore())
            targets = (Target("ratio", 1.25),)
            yield Measurement(f"cold create, {template}", "ms", clock.values, "runsc restore", references, targets)
