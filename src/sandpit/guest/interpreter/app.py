"""The service's HTTP doors (code-interpreter 2.2)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandpit.guest.interpreter import events
from sandpit.guest.interpreter.contexts import Cell, Context
from sandpit.guest.interpreter.kernel import KernelStartError
from sandpit.guest.interpreter.registry import (
    ContextCreationError,
    InvalidDirectoryError,
    Registry,
    UnknownContextError,
)
from sandpit.guest.interpreter.schemas import InvalidBodyError, parse_context, parse_execution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

_KEEPALIVE_SECONDS = 5.0
_SLICE = 256 * 1024


def build_app(registry: Registry) -> Starlette:
    """The application over contexts that are running already."""
    doors = Doors(registry)
    return Starlette(
        routes=[
            Route("/health", _health, methods=["GET"]),
            Route("/ready", doors.ready, methods=["GET"]),
            Route("/execute", Execute(registry), methods=["POST"]),
            Route("/contexts", doors.contexts, methods=["GET", "POST"]),
            Route("/contexts/{context_id}/restart", doors.restart, methods=["POST"]),
            Route("/contexts/{context_id}", doors.remove, methods=["DELETE"]),
        ],
        middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])],
        exception_handlers={
            HTTPException: _http_error,
            InvalidBodyError: _invalid_body,
            UnknownContextError: _text(404),
            InvalidDirectoryError: _text(500),
            ContextCreationError: _text(500),
            KernelStartError: _text(500),
        },
    )


FREEZING = Path("/run/sandpit/freezing")
"""The agent's sign that connections are being cut for a snapshot (docs/architecture.md, the guest)."""


class Doors:
    """Calls about contexts."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ready(self, _request: Request) -> Response:
        """Answer when the default kernel has taken a turn: ours, for templates, and to rehearse the first cell."""
        cell = Cell("None", silent=True)
        (await self._registry.default("python")).submit(cell)
        while await cell.outbox.take():
            pass
        return JSONResponse("OK")

    async def contexts(self, request: Request) -> Response:
        if request.method == "POST":
            body = parse_context(await request.body())
            return JSONResponse(_described(await self._registry.create(body.language, body.cwd)))
        return JSONResponse([_described(context) for context in self._registry.contexts()])

    async def restart(self, request: Request) -> Response:
        await self._registry.get(request.path_params["context_id"]).restart()
        return JSONResponse(None)

    async def remove(self, request: Request) -> Response:
        await self._registry.remove(request.path_params["context_id"])
        return JSONResponse(None)


class Execute:
    """POST /execute: an ASGI application, because it streams at the client's pace and notices when the client leaves."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = parse_execution(await Request(scope, receive).body())
        if body.context_id and body.language:
            refusal = PlainTextResponse("Only one of context_id or language can be provided", status_code=400)
            await refusal(scope, receive, send)
            return
        context = await self._context(body.context_id, body.language)
        cell = Cell(body.code, body.env_vars)
        context.submit(cell)
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_abandon_on_disconnect(receive, cell))
            await _stream(cell, send)
            watcher.cancel()

    async def _context(self, context_id: str | None, language: str | None) -> Context:
        if context_id:
            return self._registry.get(context_id)
        return await self._registry.default(language or "python")


async def _abandon_on_disconnect(receive: Receive, cell: Cell) -> None:
    """Interrupt the cell when its client goes. Connections that are cut for a snapshot are not the client's doing: then it goes on."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not FREEZING.exists():
        cell.abandon()


async def _stream(cell: Cell, send: Send) -> None:
    """Send lines as they come and a sign of life when none do; slices, so that a slow client holds back the kernel."""
    while True:
        try:
            async with asyncio.timeout(_KEEPALIVE_SECONDS):
                lines = await cell.outbox.take()
        except TimeoutError:
            lines = events.KEEPALIVE
        if not lines:
            break
        for start in range(0, len(lines), _SLICE):
            await send({"type": "http.response.body", "body": lines[start : start + _SLICE], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _health(_request: Request) -> Response:
    return JSONResponse("OK")


def _described(context: Context) -> Mapping[str, str]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


def _text(status: int) -> Any:
    async def handle(_request: Request, problem: Exception) -> Response:
        return PlainTextResponse(str(problem), status_code=status)

    return handle


async def _http_error(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"detail": problem.detail}, status_code=problem.status_code, headers=problem.headers)


async def _invalid_body(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, InvalidBodyError)
    # json.dumps escapes: the input may hold lone surrogates, which have no UTF-8 form.
    return Response(json.dumps({"detail": problem.details}), status_code=422, media_type="application/json")
