"""Sandboxes of the common server, made and ended through its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.abuse.front import FrontBox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.live import Live


@pytest.fixture
def create(live: Live) -> Iterator[Callable[..., FrontBox]]:
    """Make sandboxes that end with the test."""
    made: list[FrontBox] = []

    def make(template: str = "base", **fields: Any) -> FrontBox:
        made.append(FrontBox.create(live, template, **fields))
        return made[-1]

    yield make
    for box in made:
        box.kill()


@pytest.fixture
def box(create: Callable[..., FrontBox]) -> FrontBox:
    """A sandbox of `base`."""
    return create()
