"""Random operations against the model of what callers were told (tests/model), and how long each took meanwhile."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

from tests.machines import RUNTIMES
from tests.model.driver import Run

from benchmarks.rig import nothing_left
from benchmarks.series import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "model"


def measure(operations: int, seed: int | None, runtime: str | None) -> Iterator[Measurement]:
    """`operations` with each runtime. Raises: AssertionError with what was done last and what is wrong; LeakError."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    for name in (runtime,) if runtime is not None else RUNTIMES:
        print(f"model: {name}, --seed {seed}", file=sys.stderr, flush=True)
        run = Run(name, [seed], lambda text: print(f"model: {text}", file=sys.stderr, flush=True))
        with nothing_left():
            run.run(operations)
        note = f"seed {seed}; {run.summary()}"
        for number, (verb, seconds) in enumerate(sorted(run.seconds.items())):
            yield Measurement(f"{name}: {verb}", "ms", [1000 * one for one in seconds], note="" if number else note)
