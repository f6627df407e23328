"""One node for all tests of this folder, and a fresh sandbox for each test, on each runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests import leaks
from tests.machines import RUNTIMES, Box, Machine, image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandpit.contract.node import NetworkPolicy
    from sandpit.node.snapshots.images import Image


def base(runtime: str, **changes: object) -> Image:
    """The `base` template for one runtime."""
    return image("base", **{"build_id": f"base-{runtime}", "runtime": runtime, **changes})


@pytest.fixture(scope="session")
def machine(built_images: None) -> Iterator[Machine]:
    """A node without a warm pool."""
    machine = Machine.make([base(runtime) for runtime in RUNTIMES])
    leaks.kept.add(machine.name)
    machine.start()
    yield machine
    machine.stop()
    machine.remove()


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def create(machine: Machine, runtime: str) -> Iterator[Callable[..., Box]]:
    """Make sandboxes that end with the test; `limits` are Image's fields."""
    made: list[Box] = []

    def make(network: NetworkPolicy | None = None, **limits: object) -> Box:
        name = "-".join([f"base-{runtime}", *(f"{key.replace('_', '')}{value}" for key, value in limits.items())])
        if limits:
            machine.add(base(runtime, build_id=name, **limits))
        made.append(machine.create(name, network))
        return made[-1]

    yield make
    for box in made:
        if box.id in machine.node._sandboxes:
            box.kill()


@pytest.fixture
def box(create: Callable[..., Box]) -> Box:
    """A sandbox of `base`."""
    return create()
