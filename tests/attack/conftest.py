"""A server for each runtime, for attacks through its public ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests import leaks
from tests.abuse.front import FrontBox
from tests.live import Live
from tests.machines import RUNTIMES
from tests.node.outside import PUBLIC, Outside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", params=RUNTIMES)
def server(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """A server that starts every sandbox on one runtime, without a warm pool."""
    live = Live({"SANDPIT_RUNTIME": str(request.param), "SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(live.name)
    live.start()
    yield live
    live.stop()
    live.remove()


@pytest.fixture
def runtime(server: Live) -> str:
    return server.settings["SANDPIT_RUNTIME"]


@pytest.fixture
def create(server: Live) -> Iterator[Callable[..., FrontBox]]:
    """Make sandboxes that end with the test."""
    made: list[FrontBox] = []

    def make(template: str = "base", **fields: Any) -> FrontBox:
        made.append(FrontBox.create(server, template, **fields))
        return made[-1]

    yield make
    for box in made:
        box.kill()


@pytest.fixture
def outside() -> Iterator[Outside]:
    """A machine elsewhere, which is the name server of `named`."""
    with Outside() as outside:
        yield outside


@pytest.fixture(scope="session", params=RUNTIMES)
def named(request: pytest.FixtureRequest, built_images: None) -> Iterator[Live]:
    """Like `server`; sandboxes' names are resolved by `outside`, and each may have 200 flows to the world."""
    runtime = str(request.param)
    settings = {"SANDPIT_NAME_SERVERS": f'["{PUBLIC}"]', "SANDPIT_SANDBOX_FLOWS": "200"}
    live = Live({"SANDPIT_RUNTIME": runtime, "SANDPIT_POOL__SIZE": "0", **settings})
    leaks.kept.add(live.name)
    live.start()
    yield live
    live.stop()
    live.remove()


@pytest.fixture
def two(named: Live) -> Iterator[tuple[FrontBox, FrontBox]]:
    """Two sandboxes of `named`."""
    boxes = FrontBox.create(named), FrontBox.create(named)
    yield boxes
    for box in boxes:
        box.kill()


@pytest.fixture
def box(create: Callable[..., FrontBox]) -> FrontBox:
    """A sandbox of `base`."""
    return create()
