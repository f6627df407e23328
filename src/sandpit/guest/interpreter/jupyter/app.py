"""The REST routes, and the channels' websocket (legacy-protocol 5.3, 5.4)."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from sandpit.guest.agent.connections import Connection, Connections
from sandpit.guest.interpreter.contexts import Context, is_directory
from sandpit.guest.interpreter.jupyter.channels import Channels
from sandpit.guest.interpreter.kernel import KernelStartError
from sandpit.guest.interpreter.registry import ContextCreationError, Registry, UnknownContextError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from sandpit.guest.interpreter.settings import Settings

_VERSION = "2.13.0"
"""The Jupyter Server of the template of June 2024."""
_MAX_MESSAGE_BYTES = 64 << 20
_IDLE_SECONDS = 640
_DEFAULT_KERNEL = "python3"


def protocol(registry: Registry, settings: Settings) -> Callable[[], asyncio.Protocol]:
    """Makes the protocol of one connection, for any number of servers."""
    config = Config(
        build_app(registry, settings.default_cwd),
        http="httptools",
        ws=WebSocketsSansIOProtocol,
        ws_max_size=_MAX_MESSAGE_BYTES,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=_IDLE_SECONDS,
    )
    config.load()
    state = Connections()
    return lambda: Connection(config, state, {})


def build_app(registry: Registry, default_cwd: str) -> Starlette:
    """The application over the interpreter's contexts. No token, any origin: who reaches the port may use it."""
    doors = Doors(registry, default_cwd)
    return Starlette(
        routes=[
            Route("/api", doors.version),
            Route("/api/status", doors.status),
            Route("/api/kernels", doors.kernels, methods=["GET", "POST"]),
            Route("/api/kernels/{id}", doors.kernel, methods=["GET", "DELETE"]),
            Route("/api/kernels/{id}/restart", doors.restart, methods=["POST"]),
            WebSocketRoute("/api/kernels/{id}/channels", doors.channels),
            Route("/api/sessions", doors.sessions, methods=["GET", "POST"]),
            Route("/api/sessions/{id}", doors.session, methods=["GET", "PATCH", "DELETE"]),
        ],
        middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])],
        exception_handlers={HTTPException: _refused, UnknownContextError: _unknown, KernelStartError: _failed},
    )


@dataclass(slots=True)
class Session:
    """A name for a kernel. Its kernel starts a moment later, when the client has said in which directory."""

    context: Context
    kernel_name: str
    path: str
    name: str
    kind: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class Doors:
    """One object for all routes: it keeps what contexts know nothing of."""

    def __init__(self, registry: Registry, default_cwd: str) -> None:
        self._registry, self._default_cwd = registry, default_cwd
        self._sessions: dict[str, Session] = {}
        self._names: dict[str, str] = {}
        self._started = _now()
        self._starting: set[asyncio.Task[Any]] = set()

    async def version(self, _request: Request) -> Response:
        return JSONResponse({"version": _VERSION})

    async def status(self, _request: Request) -> Response:
        now = _now()
        kernels = len(self._running())
        return JSONResponse({"started": self._started, "last_activity": now, "connections": 0, "kernels": kernels})

    async def kernels(self, request: Request) -> Response:
        """List them, or start one (also as the packages before 0.0.9 asked for it)."""
        if request.method == "GET":
            return JSONResponse([self._kernel(context) for context in self._running()])
        body = await _body(request)
        name = _text(body, "name") or _text(body, "kernel_name") or _DEFAULT_KERNEL
        context = self._make(name, _text(body, "cwd") or _text(body, "path"))
        await context.start()
        return JSONResponse(self._kernel(context), 201)

    async def kernel(self, request: Request) -> Response:
        context = self._registry.get(request.path_params["id"])
        if request.method == "GET":
            return JSONResponse(self._kernel(context))
        await self._remove(context)
        return Response(status_code=204)

    async def restart(self, request: Request) -> Response:
        context = self._registry.get(request.path_params["id"])
        await context.restart()
        return JSONResponse(self._kernel(context))

    async def channels(self, socket: WebSocket) -> None:
        """A client's connection to a kernel. One that is not there is refused before the upgrade."""
        try:
            context = self._registry.get(socket.path_params["id"])
        except UnknownContextError as problem:
            await socket.send_denial_response(_problem(404, f"Kernel does not exist: {problem}"))
            return
        await socket.accept()
        await Channels(socket, context).serve()

    async def sessions(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse([self._session(session) for session in self._sessions.values()])
        body = await _body(request)
        kernel = body.get("kernel")
        kernel = kernel if isinstance(kernel, dict) else {}
        name = _text(kernel, "name") or _DEFAULT_KERNEL
        given = _text(kernel, "id")
        context = self._registry.get(given) if given else self._make(name, None)
        session = Session(
            context, name, _text(body, "path") or "", _text(body, "name") or "", _text(body, "type") or "notebook"
        )
        self._sessions[session.id] = session
        return JSONResponse(self._session(session), 201)

    async def session(self, request: Request) -> Response:
        session = self._sessions.get(request.path_params["id"])
        if session is None:
            raise HTTPException(404, f"Session not found: session_id='{request.path_params['id']}'")
        if request.method == "DELETE":
            await self._remove(session.context)
            return Response(status_code=204)
        if request.method == "PATCH":
            body = await _body(request)
            session.name = _text(body, "name") or session.name
            if path := _text(body, "path"):
                session.path = path
                self._place(session.context, path)
        return JSONResponse(self._session(session))

    def _make(self, name: str, cwd: str | None) -> Context:
        """A context whose kernel is not started. Raises: HTTPException 501 for a kernel that is not installed."""
        try:
            context = self._registry.add(name, cwd or self._default_cwd)
        except ContextCreationError as problem:
            raise HTTPException(501, f"No such kernel named {name}: {problem}") from None
        self._names[context.id] = name
        return context

    def _place(self, context: Context, path: str) -> None:
        """The working directory for a kernel that has not started yet, which it does now: clients go on to use it.

        Jupyter itself would only rename the session; the documentation promises the directory (legacy-protocol 5.4).
        """
        if context.started:
            return
        if is_directory(path):
            context.cwd = path
        starting = asyncio.create_task(_start(context))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def _remove(self, context: Context) -> None:
        await self._registry.remove(context.id)
        self._names.pop(context.id, None)
        for session in [session for session in self._sessions.values() if session.context is context]:
            del self._sessions[session.id]

    def _running(self) -> list[Context]:
        """Not the contexts that wait for their first cell on the other port."""
        return [context for context in self._registry.contexts() if context.started or context.id in self._names]

    def _kernel(self, context: Context) -> dict[str, Any]:
        name = self._names.get(context.id) or (_DEFAULT_KERNEL if context.is_ipython else context.language)
        state = "busy" if context.busy else "idle"
        return {"id": context.id, "name": name, "last_activity": _now(), "execution_state": state, "connections": 0}

    def _session(self, session: Session) -> dict[str, Any]:
        return {
            "id": session.id,
            "path": session.path,
            "name": session.name,
            "type": session.kind,
            "kernel": self._kernel(session.context),
            "notebook": {"path": session.path, "name": session.name},
        }


async def _start(context: Context) -> None:
    try:
        await context.start()
    except KernelStartError:
        return  # the first cell tells it to its client


async def _body(request: Request) -> dict[str, Any]:
    """JSON, whatever the Content-Type says. Raises: HTTPException 400."""
    try:
        body = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):
        raise HTTPException(400, "Invalid JSON in body of request") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "The body must be an object")
    return body


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _problem(status: int, message: str) -> Response:
    return JSONResponse({"message": message, "reason": None}, status)


async def _refused(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return _problem(problem.status_code, problem.detail)


async def _unknown(_request: Request, problem: Exception) -> Response:
    return _problem(404, f"Kernel does not exist: {problem}")


async def _failed(_request: Request, problem: Exception) -> Response:
    return _problem(500, str(problem))
