"""For all tests: nothing may be left behind."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tests import leaks, machines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, sandboxes' belongings, threads or descriptors behind."""
    before = leaks.holdings(nodes=machines.ROOT.exists())
    yield
    left = leaks.new_since(before, nodes=machines.ROOT.exists())
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def no_leaks_at_the_end() -> Iterator[None]:
    """The same for nodes that outlive a test."""
    yield
    leaks.kept.clear()
    if not machines.ROOT.exists():
        return
    left = [thing for thing in leaks.new_since(set(), nodes=True) if not thing.startswith(("thread", "descriptor"))]
    shutil.rmtree(machines.ROOT, ignore_errors=True)
    if left:
        pytest.fail("left behind at the end:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def built_images() -> None:
    """Skip where no sandbox can run."""
    if (reason := machines.why_not()) is not None:
        pytest.skip(reason)
