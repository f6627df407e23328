"""Downloads and uploads (current-protocol 7.1 and 7.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from sandpit.guest.agent.state import AgentState


def routes(state: AgentState) -> list[BaseRoute]:
    """The routes of `/files`. They check token or signature themselves: a signed link carries no token."""
    return []
