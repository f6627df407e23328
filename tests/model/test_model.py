"""Random operations against a real server that is killed now and then: whatever callers were told, holds.

A long run is `./bench model N`.
"""

from __future__ import annotations

import random

import pytest
from tests.machines import RUNTIMES
from tests.model.driver import Run

OPERATIONS = 400
SECONDS = 8.0


@pytest.mark.timeout(240)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_operations(built_images: None, runtime: str) -> None:
    """Half of them the same each time, half of them others, which the seed names."""
    run = Run(runtime, [1, random.SystemRandom().randrange(1 << 32)])
    print(f"seeds {run.seeds}")
    run.run(OPERATIONS, SECONDS)
    print(run.summary())
    assert run.crashes >= 2
