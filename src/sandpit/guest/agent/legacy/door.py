"""What listens on port 49982 before anybody comes: it imports the rest of this package with the first request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.process.processes import ProcessTable

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp, Receive, Scope, Send

    from sandpit.guest.agent.control.state import AgentState

MAX_MESSAGE_BYTES = 64 << 20
"""Of a client. The daemon of 2024 took 32 MiB."""


class Door:
    """The ASGI application of the port."""

    def __init__(self, state: AgentState, table: ProcessTable) -> None:
        self._state, self._table = state, table
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            from sandpit.guest.agent.legacy.app import build_app

            self._app = build_app(self._state, self._table)
        await self._app(scope, receive, send)


def web_socket(**arguments: Any) -> asyncio.Protocol:
    """uvicorn's websocket connection, imported when it is wanted."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    return WebSocketsSansIOProtocol(**arguments)
