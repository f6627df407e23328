"""Routes of the protocol for what this server does not have: an error that says so, where a 404 would mean one thing that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandpit.api.http.routes import ApiRoute, Call, Handler
from sandpit.control.errors import NotSupportedError

if TYPE_CHECKING:
    from starlette.responses import Response

_VOLUMES = "this server has no volumes: keep files with a pause or a snapshot of the sandbox"
_SECRETS = "this server keeps no secrets: give them to a sandbox as environment variables"


def _refusing(message: str) -> Handler:
    async def refuse(_call: Call) -> Response:
        raise NotSupportedError(message)

    return refuse


def _collection(path: str, message: str, *changes: str) -> tuple[ApiRoute, ...]:
    """What a collection and each thing in it would answer; `changes` are methods that change a thing (current-protocol 3.10, 3.11)."""
    thing = f"{path}/{{name:segment}}"
    routes = [
        ("GET", path),
        ("POST", path),
        ("GET", thing),
        ("DELETE", thing),
        *((method, thing) for method in changes),
    ]
    return tuple(ApiRoute(method, path, _refusing(message), 501) for method, path in routes)


ROUTES = (*_collection("/volumes", _VOLUMES), *_collection("/secrets", _SECRETS, "POST"))
