"""The agent's application: all routes behind one guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandpit.guest.agent.control import identity, journal, killed
from sandpit.guest.agent.control import snapshots as snapshot_service
from sandpit.guest.agent.control.guard import Guard
from sandpit.guest.agent.control.metrics import Meter
from sandpit.guest.agent.control.ports import PortWatch
from sandpit.guest.agent.files import routes as files
from sandpit.guest.agent.files import service as filesystem
from sandpit.guest.agent.process import service as process_service
from sandpit.guest.agent.process.processes import ProcessTable

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandpit.guest.agent.control.state import AgentState


def build_app(state: AgentState) -> Starlette:
    """The ASGI application of port 49983. Its `state.processes` must be told of SIGCHLD (`reap`)."""
    ports = PortWatch(state.journal)
    table = ProcessTable(state.journal, ports)
    app = Starlette(
        routes=[
            *process_service.routes(table),
            *filesystem.routes(state),
            *files.routes(state),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/envs", envs),
            Route("/init", identity.init, methods=["POST"]),
            Route("/freeze", snapshot_service.freeze, methods=["POST"]),
            Route("/unfreeze", snapshot_service.unfreeze, methods=["POST"]),
            Route("/disk", snapshot_service.read, methods=["GET"]),
            Route("/journal", journal.read, methods=["GET"]),
            Route("/memory", killed.note, methods=["POST"]),
            Route("/changes", snapshot_service.look, methods=["POST"]),
            Route("/changes", snapshot_service.changes, methods=["GET"]),
        ],
        middleware=[
            # Outermost: a browser's preflight carries no token.
            Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"], max_age=7200),
            Middleware(Guard, state=state),
        ],
    )
    app.router.redirect_slashes = False
    app.state.agent = state
    app.state.processes = table
    app.state.ports = ports
    app.state.meter = Meter()
    return app


async def health(_request: Request) -> Response:
    """Answer that the agent is alive."""
    return Response(status_code=204)


async def metrics(request: Request) -> Response:
    """What the sandbox uses."""
    return JSONResponse(request.app.state.meter.read(), headers={"cache-control": "no-store"})


async def envs(request: Request) -> Response:
    """The global environment."""
    return JSONResponse(request.app.state.agent.env)
