"""The routes under /templates (current-protocol 3.1, 3.7, 3.12)."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from sandpit.api import answers
from sandpit.api.http import params
from sandpit.api.http.routes import ApiRoute, Call
from sandpit.control.errors import InvalidRequestError


async def list_v1(call: Call) -> Response:
    _check_team(call)
    infos = await call.control.services.templates.list_of(call.identity)
    return JSONResponse([answers.template(info) for info in infos])


async def list_v2(call: Call) -> Response:
    _check_team(call)
    limit = call.query_int(params.LIMIT)
    infos, token = await call.control.services.templates.page(call.identity, limit, call.query(params.NEXT_TOKEN))
    headers = {"X-Next-Token": token} if token is not None else None
    return JSONResponse([answers.template(info) for info in infos], headers=headers)


async def get(call: Call) -> Response:
    info = await call.control.services.templates.get(call.identity, call.path("id"))
    return JSONResponse(answers.template_with_builds(info))


async def delete(call: Call) -> Response:
    services, text = call.control.services, call.path("id")
    if await services.tags.is_snapshot(call.identity, text):
        await services.snapshots.delete(call.identity, text)
    else:
        await services.tags.delete_template(call.identity, text)
    return Response(status_code=204)


async def by_alias(call: Call) -> Response:
    template = await call.control.services.templates.by_alias(call.identity, call.path("alias"))
    return JSONResponse({"templateID": template.id, "public": template.public})


def _check_team(call: Call) -> None:
    asked = call.query(params.TEAM_ID)
    if asked is not None and asked != call.identity.team_id:
        raise InvalidRequestError(f"teamID '{asked[:100]}' is not the team of this key")


ROUTES = (
    ApiRoute("GET", "/templates", list_v1, query=(params.TEAM_ID,)),
    ApiRoute("GET", "/v2/templates", list_v2, query=(params.TEAM_ID, params.LIMIT, params.NEXT_TOKEN)),
    ApiRoute("GET", "/templates/aliases/{alias:segment}", by_alias),
    ApiRoute("GET", "/templates/{id:segment}", get),
    ApiRoute("DELETE", "/templates/{id:segment}", delete, 204, errors=(409,)),
)
