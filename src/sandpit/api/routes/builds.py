"""The routes of template builds (current-protocol 10)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from sandpit.api.buildschemas import AssignTags, BuildRequest, BuildStartBody, RemoveTags, TemplateUpdate
from sandpit.api.http import params
from sandpit.api.http.connections import UPLOADS
from sandpit.api.http.routes import ApiRoute, Call
from sandpit.control.errors import (
    BodyTooLargeError,
    DiskFullError,
    ForbiddenError,
    InvalidRequestError,
    LimitReachedError,
)
from sandpit.control.templates.buildrequests import check_files_hash
from sandpit.control.times import rfc3339
from sandpit.store.uploads import AT_ONCE, TooLarge, TooMany

if TYPE_CHECKING:
    from sandpit.control.app import ControlPlane
    from sandpit.control.templates.builds import BuildStatus
    from sandpit.store.models import BuildLog


async def request(call: Call) -> Response:
    """Also the second version, which calls the name an alias."""
    body = await call.body(BuildRequest)
    made = await call.control.services.builds.request(call.identity, body.new_build())
    answer = {
        "templateID": made.template.id,
        "buildID": made.build.id,
        "public": made.template.public,
        "names": made.names,
        "tags": made.build.tags,
        "aliases": [made.name],
    }
    return JSONResponse(answer, status_code=202)


async def files(call: Call) -> Response:
    """Whether an archive is there, and where to upload it."""
    services = call.control.services
    await services.templates.own(call.identity, call.path("id"))
    files_hash = check_files_hash(call.path("hash"))
    token = services.upload_links.make(call.identity.team_id, files_hash, call.identity.credential_id)
    present = services.builds.uploads.has(call.identity.team_id, files_hash)
    url = call.request.url
    return JSONResponse({"present": present, "url": f"{url.scheme}://{url.netloc}{UPLOADS}/{token}"}, status_code=201)


async def upload(request: Request, control: ControlPlane) -> Response:
    """Take an archive. The link is the permission; there is no key. How long it may take is `api.http.connections`'s to say."""
    services, settings = control.services, control.settings
    link = services.upload_links.check(str(request.path_params["token"]))
    if link is None:
        raise ForbiddenError("this upload link is too old, or was not made by this server: ask for another one")
    if link.credential_id is not None and not await services.keys.is_valid(link.credential_id, link.team_id):
        raise ForbiddenError("the key that this upload link was made with was revoked")
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdigit() and len(length) < 19 else None
    try:
        async with services.builds.uploads.receive(link.team_id, link.files_hash, size) as receiver:
            async for chunk in request.stream():
                await receiver.write(chunk)
    except TooLarge:
        limit = settings.build.upload_mb
        raise BodyTooLargeError(
            f"the files of one COPY are limited to {limit} MiB: leave some out (.dockerignore)"
        ) from None
    except TooMany:
        raise LimitReachedError(
            f"the team is uploading {AT_ONCE} archives, or {settings.build.uploads_mb} MiB of them, already: wait for one to end"
        ) from None
    except ClientDisconnect as error:
        raise InvalidRequestError("the connection ended in the middle of the upload") from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(str(error)) from error
    return Response(status_code=200)


async def start(call: Call) -> Response:
    body = await call.body(BuildStartBody)
    builds = call.control.services.builds
    await builds.start(call.identity, call.path("id"), call.path("build"), body.start())
    return Response(status_code=202)


async def cancel(call: Call) -> Response:
    """Not in the protocol: ends a build that runs."""
    await call.control.services.builds.cancel(call.identity, call.path("id"), call.path("build"))
    return Response(status_code=204)


async def status(call: Call) -> Response:
    found = await _status(call, params.LOGS_OFFSET)
    build, lines = found.build, found.lines
    answer: dict[str, Any] = {
        "templateID": build.template_id,
        "buildID": build.id,
        "status": build.status,
        "logs": [line.message for line in lines],
        "logEntries": [_entry(line) for line in lines],
    }
    if build.reason is not None:
        answer["reason"] = build.reason | {"logEntries": [_entry(line) for line in found.reason_lines]}
    return JSONResponse(answer)


async def logs(call: Call) -> Response:
    found = await _status(call, params.OFFSET)
    return JSONResponse({"logs": [_entry(line) for line in found.lines]})


async def _status(call: Call, offset: params.Param) -> BuildStatus:
    skip, limit = call.query_int(offset), call.query_int(params.LIMIT)
    options: dict[str, int] = {"limit": limit} if limit is not None else {}
    builds = call.control.services.builds
    return await builds.status(
        call.identity, call.path("id"), call.path("build"), offset=skip or 0, level=call.query(params.LEVEL), **options
    )


async def update(call: Call) -> Response:
    body = await call.body(TemplateUpdate)
    names = await call.control.services.templates.set_public(call.identity, call.path("id"), body.public)
    return JSONResponse({"names": names})


async def assign_tags(call: Call) -> Response:
    body = await call.body(AssignTags)
    tags, build_id = await call.control.services.tags.assign(call.identity, body.target, body.tags)
    return JSONResponse({"tags": tags, "buildID": build_id}, status_code=201)


async def remove_tags(call: Call) -> Response:
    body = await call.body(RemoveTags)
    await call.control.services.tags.remove(call.identity, body.name, body.tags)
    return Response(status_code=204)


async def list_tags(call: Call) -> Response:
    rows = await call.control.services.tags.all_of(call.identity, call.path("id"))
    return JSONResponse(
        [{"tag": row.tag, "buildID": row.build_id, "createdAt": rfc3339(row.created_at)} for row in rows]
    )


def _entry(line: BuildLog) -> dict[str, Any]:
    entry = {"timestamp": rfc3339(line.timestamp), "message": line.message, "level": line.level}
    return entry | ({"step": line.step} if line.step is not None else {})


ROUTES = (
    # before those whose path could mean a template of this name
    ApiRoute("POST", "/templates/tags", assign_tags, 201, AssignTags),
    ApiRoute("DELETE", "/templates/tags", remove_tags, 204, RemoveTags),
    ApiRoute("POST", "/v3/templates", request, 202, BuildRequest, errors=(429,)),
    ApiRoute("POST", "/v2/templates", request, 202, BuildRequest, errors=(429,)),
    ApiRoute("GET", "/templates/{id:segment}/files/{hash:segment}", files, 201),
    ApiRoute("POST", "/v2/templates/{id:segment}/builds/{build:segment}", start, 202, BuildStartBody, errors=(409, 429)),
    ApiRoute(
        "GET", "/templates/{id:segment}/builds/{build:segment}/status", status,
        query=(params.LOGS_OFFSET, params.LIMIT, params.LEVEL),
    ),
    ApiRoute(
        "GET", "/templates/{id:segment}/builds/{build:segment}/logs", logs,
        query=(params.OFFSET, params.LIMIT, params.LEVEL),
    ),
    ApiRoute("DELETE", "/templates/{id:segment}/builds/{build:segment}", cancel, 204, errors=(409,)),
    ApiRoute("PATCH", "/templates/{id:segment}", update, body=TemplateUpdate),
    ApiRoute("PATCH", "/v2/templates/{id:segment}", update, body=TemplateUpdate),
    ApiRoute("GET", "/templates/{id:segment}/tags", list_tags),
)  # fmt: skip
