"""The routes of teams and their API keys."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from sandpit.api import answers, schemas
from sandpit.api.http.routes import ApiRoute, Call

LOGIN_KEY_NAME = "CLI login"


async def list_teams(call: Call) -> Response:
    """The caller's teams, each with a key for it (code-interpreter 3.4).

    Keys are stored as digests, so somebody who logs in with an access token gets a new one.
    """
    services, identity = call.control.services, call.identity
    if identity.user_id is None:
        key = call.request.headers.get("x-api-key", "")
        return JSONResponse([_team(identity.team_id, identity.team_name, key, is_default=True)])
    teams = []
    for team, is_default in await services.teams.of_user(identity.user_id):
        _, key = await services.keys.create(team.id, LOGIN_KEY_NAME, identity.user_id)
        teams.append(_team(team.id, team.name, key, is_default=is_default))
    return JSONResponse(teams)


async def list_keys(call: Call) -> Response:
    rows = await call.control.services.keys.list_of(call.identity.team_id)
    return JSONResponse([answers.api_key(row) for row in rows])


async def create_key(call: Call) -> Response:
    body = await call.body(schemas.ApiKeyBody)
    identity = call.identity
    row, raw = await call.control.services.keys.create(identity.team_id, body.name, identity.user_id)
    return JSONResponse(answers.api_key(row) | {"key": raw}, 201)


async def rename_key(call: Call) -> Response:
    body = await call.body(schemas.ApiKeyBody)
    row = await call.control.services.keys.rename(call.identity.team_id, call.path("id"), body.name)
    return JSONResponse(answers.api_key(row))


async def revoke_key(call: Call) -> Response:
    await call.control.services.keys.revoke(call.identity.team_id, call.path("id"))
    return Response(status_code=204)


def _team(team_id: str, name: str, key: str, *, is_default: bool) -> answers.Json:
    return {"teamID": team_id, "name": name, "apiKey": key, "isDefault": is_default}


ROUTES = (
    ApiRoute("GET", "/teams", list_teams),
    ApiRoute("GET", "/api-keys", list_keys),
    ApiRoute("POST", "/api-keys", create_key, 201, schemas.ApiKeyBody),
    ApiRoute("PATCH", "/api-keys/{id:segment}", rename_key, body=schemas.ApiKeyBody),
    ApiRoute("DELETE", "/api-keys/{id:segment}", revoke_key, 204),
)
