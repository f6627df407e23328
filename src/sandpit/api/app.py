"""The control plane's doors as one ASGI application."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.convertors import register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sandpit.api.http.browsers import NoWebPages
from sandpit.api.http.connections import UPLOADS
from sandpit.api.http.routes import (
    ApiRoute,
    Call,
    Segment,
    authenticate,
    check_query,
    on_control_error,
    on_http_error,
    on_store_error,
    on_unexpected,
)
from sandpit.api.openapi import document
from sandpit.api.routes import builds, missing, sandboxes, teams, templates
from sandpit.control.errors import ControlError
from sandpit.lib import serverlog as logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from sandpit.control.app import ControlPlane

register_url_convertor("segment", Segment())

ROUTES: tuple[ApiRoute, ...] = (
    *sandboxes.ROUTES,
    *builds.ROUTES,
    *templates.ROUTES,
    *teams.ROUTES,
    *missing.ROUTES,
)
"""Every route that demands a key. `/health` and `/openapi.json` do not, nor do uploads, whose links are made for one who has one."""


def create_app(control: ControlPlane) -> ASGIApp:
    """The API. The caller has entered `control` and leaves it after the last request."""
    app = Starlette(
        routes=[
            Route("/health", _health),
            Route("/openapi.json", _openapi),
            _uploads(control),
            *_grouped(ROUTES, control),
        ],
        middleware=[_browsers(control)],
        exception_handlers={
            HTTPException: on_http_error,
            ControlError: on_control_error,
            SQLAlchemyError: on_store_error,
            Exception: on_unexpected,
        },
    )
    app.router.redirect_slashes = False
    return _RawPath(app)


def _browsers(control: ControlPlane) -> Middleware:
    """With keys, pages of any origin may call: there are no cookies, only keys (legacy-protocol 1.6). Without, none may."""
    if control.local is not None:
        return Middleware(NoWebPages, domain=control.settings.tls_domain)
    return Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["X-Next-Token", "X-Total-Running"],
    )


class _RawPath:
    """Routes by the raw path: an encoded `/` in a name is no separator (current-protocol 3.1)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


def _grouped(routes: Sequence[ApiRoute], control: ControlPlane) -> list[Route]:
    """One route per path, so that a wrong method is a 405 that names all the right ones."""
    by_path: dict[str, dict[str, ApiRoute]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    return [Route(path, _endpoint(methods, control), methods=list(methods)) for path, methods in by_path.items()]


def _endpoint(methods: dict[str, ApiRoute], control: ControlPlane) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        identity = await authenticate(request, control)
        logs.tenant.set(identity.team_id)  # what goes wrong from here on is logged on this team's account
        identity.check_may_act()
        check_query(request)
        route = methods["GET" if request.method == "HEAD" else request.method]
        return await route.handler(Call(request, control, identity, route))

    return endpoint


def _uploads(control: ControlPlane) -> Route:
    async def endpoint(request: Request) -> Response:
        return await builds.upload(request, control)

    return Route(f"{UPLOADS}/{{token:segment}}", endpoint, methods=["PUT"])


@functools.cache
def _description() -> bytes:
    return json.dumps(document(ROUTES)).encode()


async def _openapi(_request: Request) -> Response:
    return Response(_description(), media_type="application/json")


async def _health(_request: Request) -> Response:
    return PlainTextResponse("ok")
