"""The operator's door: what the CLI of the same machine asks the server over its control socket (owner only)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandpit.api.http.fields import Name
from sandpit.api.http.routes import json_body
from sandpit.api.schemas import Body
from sandpit.control.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from sandpit.control.app import Services

FIRST_KEY_NAME = "first key"
_BODY_BYTES = 64 * 1024


class _NewTeam(Body):
    name: Name
    slug: Name | None = None


def admin_app(services: Services, status: Callable[[], Mapping[str, Any]], stop: Callable[[bool], None]) -> Starlette:
    """`status` describes the server, `stop(sandboxes)` ends it, with its sandboxes or without."""

    async def get_status(request: Request) -> Response:
        return JSONResponse(status())

    async def ask_to_stop(request: Request) -> Response:
        stop(request.query_params.get("sandboxes") == "true")
        return Response(status_code=202)

    async def list_teams(request: Request) -> Response:
        """Each with the bytes that its paused sandboxes and snapshots take up, and its templates."""
        teams = []
        for team in await services.teams.list_all():
            used = {
                "snapshotBytes": await services.quota.used(team.id),
                "templateBytes": await services.template_quota.used(team.id),
            }
            teams.append({"id": team.id, "name": team.name, "slug": team.slug, **used})
        return JSONResponse(teams)

    async def create_team(request: Request) -> Response:
        """Body `{"name", "slug"?}`; the answer holds the team's first key, which nobody can read again."""
        try:
            body = await json_body(request, _BODY_BYTES, _NewTeam)
            team = await services.teams.create(body.name, body.slug)
        except ControlError as error:
            return JSONResponse({"message": error.message}, error.status)
        _, key = await services.keys.create(team.id, FIRST_KEY_NAME)
        return JSONResponse({"id": team.id, "name": team.name, "slug": team.slug, "key": key}, 201)

    return Starlette(
        routes=[
            Route("/status", get_status, methods=["GET"]),
            Route("/stop", ask_to_stop, methods=["POST"]),
            Route("/teams", list_teams, methods=["GET"]),
            Route("/teams", create_team, methods=["POST"]),
        ]
    )
