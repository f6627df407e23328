"""The application of port 49982: the websocket, the file route, and who may use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from sandpit.guest.agent.control.guard import only_token, token_matches
from sandpit.guest.agent.legacy import interpreter, journalctl
from sandpit.guest.agent.legacy.files import Files
from sandpit.guest.agent.legacy.filesystem import FilesystemService
from sandpit.guest.agent.legacy.ports import PortsService
from sandpit.guest.agent.legacy.processes import ProcessService
from sandpit.guest.agent.legacy.rpc import Connection
from sandpit.guest.agent.legacy.terminals import TerminalService

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket

    from sandpit.guest.agent.control.state import AgentState
    from sandpit.guest.agent.legacy.rpc import Service
    from sandpit.guest.agent.process.processes import ProcessTable

_UNAUTHORIZED = "this sandbox has an access token, which the protocol of 2024 cannot send"


def build_app(state: AgentState, table: ProcessTable) -> Starlette:
    """The application, on the agent's process table."""
    services: dict[str, Service] = {
        "process": ProcessService(state, table),
        "filesystem": FilesystemService(state),
        "terminal": TerminalService(state, table),
        "codeSnippet": PortsService(),
    }
    journalctl.install()

    async def connect(socket: WebSocket) -> None:
        # Before the client can know of the connection: it goes on to the interpreter's port at once.
        await interpreter.open_port()
        await socket.accept()
        await Connection(socket, services).serve()

    app = Starlette(
        routes=[
            WebSocketRoute("/ws", connect),
            Route("/file", Files(state)),
            Route("/ping", _ping),
        ],
        middleware=[
            Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], max_age=7200),
            Middleware(Guard, state=state),
        ],
    )
    app.router.redirect_slashes = False
    return app


async def _ping(_request: Request) -> Response:
    return PlainTextResponse("pong")


class Guard:
    """ASGI layer in front of all routes: a secured sandbox has no door without its token (docs/legacy.md, Who may)."""

    def __init__(self, app: ASGIApp, state: AgentState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or token_matches(self._state, only_token(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            refusal = PlainTextResponse(_UNAUTHORIZED, 401)
            head = {"type": "websocket.http.response.start", "status": 401, "headers": refusal.raw_headers}
            await send(head)
            await send({"type": "websocket.http.response.body", "body": refusal.body})
        else:
            await PlainTextResponse(_UNAUTHORIZED, 401)(scope, receive, send)
