"""The agent's application: all routes behind one guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from sandpit.guest.agent import files, filesystem
from sandpit.guest.agent.guard import Guard

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandpit.guest.agent.state import AgentState


def build_app(state: AgentState) -> Starlette:
    """The ASGI application of port 49983."""
    app = Starlette(
        routes=[
            Route("/health", health),
            *filesystem.routes(state),
            *files.routes(state),
        ],
        middleware=[
            # Outermost: a browser's preflight carries no token.
            Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], max_age=7200),
            Middleware(Guard, state=state),
        ],
    )
    app.router.redirect_slashes = False
    app.state.agent = state
    return app


async def health(_request: Request) -> Response:
    """Answer that the agent is alive."""
    return Response(status_code=204)
