"""The file system service (current-protocol 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from sandpit.guest.agent.state import AgentState


def routes(state: AgentState) -> list[BaseRoute]:
    """The routes of `filesystem.Filesystem`."""
    return []
