"""For all tests: nothing may be left behind."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import uvloop
from tests import leaks, machines
from tests.live import Live

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, sandboxes' belongings, threads or descriptors behind."""
    own = request.node.get_closest_marker("official_client") is None
    before = leaks.holdings(nodes=machines.ROOT.exists(), own=own)
    yield
    left = leaks.new_since(before, nodes=machines.ROOT.exists(), own=own)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def no_leaks_at_the_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same for nodes that outlive a test."""
    leaks.temporary.add(str(tmp_path_factory.getbasetemp()))
    for _ in range(2):  # libuv keeps one pipe for all loops of a process from the second loop on
        uvloop.new_event_loop().close()
    yield
    leaks.kept.clear()
    left = leaks.new_since(set(), nodes=machines.ROOT.exists(), own=False)
    shutil.rmtree(machines.ROOT, ignore_errors=True)
    if left:
        pytest.fail("left behind at the end:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def built_images() -> None:
    """Skip where no sandbox can run."""
    if (reason := machines.why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def live(built_images: None) -> Iterator[Live]:
    """A running server with both templates, for all tests that only use it."""
    server = Live()
    leaks.kept.add(server.name)
    server.start()
    yield server
    server.stop()
    server.remove()
