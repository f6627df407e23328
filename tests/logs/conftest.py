"""A sandbox whose log is read through the API, and what is done in it through the official client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.conftest import clients

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live import Live

__all__ = ["clients"]
PATIENCE = 60.0
Line = dict[str, Any]


class Logs:
    """Reads logs of one server's sandboxes."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, sandbox_id: str, **query: str | int) -> list[Line]:
        answer = self._live.api.get(f"/v2/sandboxes/{sandbox_id}/logs", params=query)
        assert answer.status_code == 200, answer.text
        lines: list[Line] = answer.json()["logs"]
        return lines

    def until(self, sandbox_id: str, found: Callable[[list[Line]], Any], **query: str | int) -> list[Line]:
        """The log as soon as something is in it."""
        deadline = time.monotonic() + PATIENCE
        while not found(lines := self(sandbox_id, **query)):
            assert time.monotonic() < deadline, lines
            time.sleep(0.1)
        return lines

    def until_said(self, sandbox_id: str, message: str) -> list[Line]:
        return self.until(sandbox_id, lambda lines: message in messages(lines))


def messages(lines: list[Line]) -> list[str]:
    return [line["message"] for line in lines]


def pick(lines: list[Line], message: str) -> Line:
    """The only line with this message."""
    (found,) = [line for line in lines if line["message"] == message]
    return found


@pytest.fixture
def logs(live: Live) -> Logs:
    return Logs(live)
