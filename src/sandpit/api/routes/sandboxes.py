"""The routes under /sandboxes (current-protocol 3). Each one reads its request, calls the control plane, answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from sandpit.api import answers, query, schemas
from sandpit.api.http import params
from sandpit.api.http.routes import ApiRoute, Call
from sandpit.api.routes import legacy
from sandpit.control import ids

if TYPE_CHECKING:
    from sandpit.control.lifecycle.requests import NewSandbox


async def create_v1(call: Call) -> Response:
    return await _create(call, (await call.body(schemas.NewSandboxV1Body)).request())


async def create_v2(call: Call) -> Response:
    return await _create(call, (await call.body(schemas.NewSandboxV2Body)).request())


async def _create(call: Call, new: NewSandbox) -> Response:
    key = call.request.headers.get("idempotency-key")
    row = await call.control.services.sandboxes.create(call.identity, new, key)
    return JSONResponse(answers.sandbox(row, call.control.domain), 201)


async def connect_v1(call: Call) -> Response:
    return await _connect(call, await call.body(schemas.ConnectV1Body))


async def connect_v2(call: Call) -> Response:
    return await _connect(call, await call.body(schemas.ConnectV2Body))


async def _connect(call: Call, body: schemas.ConnectV1Body | schemas.ConnectV2Body) -> Response:
    service, sandbox_id = call.control.services.sleep, call.sandbox_id()
    memory = body.memory is not False
    row, resumed = await service.connect(call.identity, sandbox_id, body.timeout, memory=memory)
    return JSONResponse(answers.sandbox(row, call.control.domain), 201 if resumed else 200)


async def resume(call: Call) -> Response:
    body = await call.body(schemas.ResumeBody)
    timeout_s = body.timeout if body.timeout is not None else schemas.V1_TIMEOUT
    row = await call.control.services.sleep.resume(call.identity, call.sandbox_id(), timeout_s)
    return JSONResponse(answers.sandbox(row, call.control.domain), 201)


async def get(call: Call) -> Response:
    row = await call.control.services.queries.get(call.identity, call.sandbox_id())
    return JSONResponse(answers.detail(row, call.control.domain))


async def list_v1(call: Call) -> Response:
    wanted = query.metadata(call.query(params.METADATA))
    rows = await call.control.services.queries.running(call.identity, wanted)
    items = [answers.listed(row) for row in rows]
    return JSONResponse([legacy.listed(item) for item in items] if legacy.is_legacy(call.request) else items)


async def list_v2(call: Call) -> Response:
    wanted = await query.sandbox_filter(call)
    if wanted is None:
        return JSONResponse([], headers={"X-Total-Running": "0"})
    page = await call.control.services.queries.page(call.identity, wanted)
    headers = {"X-Total-Running": str(page.total_running)}
    if page.next_token is not None:
        headers["X-Next-Token"] = page.next_token
    return JSONResponse([answers.listed(row) for row in page.items], headers=headers)


async def kill(call: Call) -> Response:
    await call.control.services.sandboxes.kill(call.identity, call.sandbox_id())
    return Response(status_code=204)


async def set_timeout(call: Call) -> Response:
    body = await call.body(schemas.TimeoutBody)
    await call.control.services.sandboxes.set_timeout(call.identity, call.sandbox_id(), body.timeout)
    return Response(status_code=204)


async def refresh(call: Call) -> Response:
    body = await call.body(schemas.RefreshBody)
    await call.control.services.sandboxes.refresh(call.identity, call.sandbox_id(), body.duration)
    return Response(status_code=204)


async def update_network(call: Call) -> Response:
    body = await call.body(schemas.NetworkUpdateBody)
    await call.control.services.sandboxes.update_network(call.identity, call.sandbox_id(), body.fields())
    return Response(status_code=204)


async def pause(call: Call) -> Response:
    body = await call.body(schemas.PauseBody)
    sleep, sandbox_id = call.control.services.sleep, call.sandbox_id()
    strict = body.require_healthy_guest is True
    await sleep.pause(call.identity, sandbox_id, memory=body.memory is not False, strict=strict)
    return Response(status_code=204)


async def fork(call: Call) -> Response:
    body = await call.body(schemas.ForkBody)
    snapshots = call.control.services.snapshots
    results = await snapshots.fork(call.identity, call.sandbox_id(), body.count, body.timeout)
    return JSONResponse([answers.fork(result, call.control.domain) for result in results], 201)


async def snapshot(call: Call) -> Response:
    body = await call.body(schemas.SnapshotBody)
    snapshots, sandbox_id = call.control.services.snapshots, call.sandbox_id()
    view = await snapshots.take(call.identity, sandbox_id, body.name, memory=body.memory is not False)
    return JSONResponse(answers.snapshot(view), 201)


async def list_snapshots(call: Call) -> Response:
    given = call.query(params.SANDBOX_ID)
    sandbox_id = (ids.parse_sandbox_id(given) or "-") if given is not None else None
    limit = call.query_int(params.LIMIT)
    snapshots = call.control.services.snapshots
    views, token = await snapshots.page(
        call.identity, sandbox_id, call.query(params.NAME), limit, call.query(params.NEXT_TOKEN)
    )
    headers = {"X-Next-Token": token} if token is not None else None
    return JSONResponse([answers.snapshot(view) for view in views], headers=headers)


async def metrics(call: Call) -> Response:
    start, end = query.time_range(call)
    rows = await call.control.services.queries.metrics(call.identity, call.sandbox_id(), start, end)
    return JSONResponse([answers.metric(row) for row in rows])


async def metrics_of_many(call: Call) -> Response:
    wanted = call.query_list(params.SANDBOX_IDS)
    rows = await call.control.services.queries.latest_metrics(call.identity, wanted)
    return JSONResponse({"sandboxes": {sandbox_id: answers.metric(row) for sandbox_id, row in rows.items()}})


async def logs_v1(call: Call) -> Response:
    rows = await call.control.services.queries.logs(call.identity, call.sandbox_id(), query.log_filter_v1(call))
    return JSONResponse(
        {"logs": [answers.log_line(row) for row in rows], "logEntries": [answers.log_entry(row) for row in rows]}
    )


async def logs_v2(call: Call) -> Response:
    rows = await call.control.services.queries.logs(call.identity, call.sandbox_id(), query.log_filter_v2(call))
    return JSONResponse({"logs": [answers.log_entry(row) for row in rows]})


_SNAPSHOTS = (params.SANDBOX_ID, params.NAME, params.LIMIT, params.NEXT_TOKEN)
_MAKES = (409, 422, 429, 503)
"""What a route may answer that starts a sandbox: conflict, idempotency, limits, no room."""
_CHANGES = (409, 429, 503)

ROUTES = (
    ApiRoute("POST", "/v2/sandboxes", create_v2, 201, schemas.NewSandboxV2Body, errors=_MAKES),
    ApiRoute("POST", "/sandboxes", create_v1, 201, schemas.NewSandboxV1Body, errors=_MAKES),
    ApiRoute("GET", "/v2/sandboxes", list_v2, query=query.SANDBOXES),
    ApiRoute("GET", "/sandboxes", list_v1, query=(params.METADATA,)),
    ApiRoute("GET", "/sandboxes/metrics", metrics_of_many, query=(params.SANDBOX_IDS,)),
    ApiRoute(
        "POST", "/v2/sandboxes/{id:segment}/connect", connect_v2, (200, 201), schemas.ConnectV2Body, errors=_CHANGES
    ),
    ApiRoute("POST", "/sandboxes/{id:segment}/connect", connect_v1, (200, 201), schemas.ConnectV1Body, errors=_CHANGES),
    ApiRoute("POST", "/sandboxes/{id:segment}/resume", resume, 201, schemas.ResumeBody, errors=_CHANGES),
    ApiRoute("GET", "/sandboxes/{id:segment}", get),
    ApiRoute("DELETE", "/sandboxes/{id:segment}", kill, 204),
    ApiRoute("POST", "/sandboxes/{id:segment}/timeout", set_timeout, 204, schemas.TimeoutBody, errors=_CHANGES),
    ApiRoute("POST", "/sandboxes/{id:segment}/refreshes", refresh, 204, schemas.RefreshBody, errors=_CHANGES),
    ApiRoute("PUT", "/sandboxes/{id:segment}/network", update_network, 204, schemas.NetworkUpdateBody, errors=_CHANGES),
    ApiRoute("POST", "/sandboxes/{id:segment}/pause", pause, 204, schemas.PauseBody, errors=_CHANGES),
    ApiRoute("POST", "/sandboxes/{id:segment}/fork", fork, 201, schemas.ForkBody, errors=_CHANGES),
    ApiRoute("POST", "/sandboxes/{id:segment}/snapshots", snapshot, 201, schemas.SnapshotBody, errors=_CHANGES),
    ApiRoute("GET", "/sandboxes/{id:segment}/metrics", metrics, query=query.TIMES),
    ApiRoute("GET", "/sandboxes/{id:segment}/logs", logs_v1, query=query.LOGS_V1),
    ApiRoute("GET", "/v2/sandboxes/{id:segment}/logs", logs_v2, query=query.LOGS_V2),
    ApiRoute("GET", "/snapshots", list_snapshots, query=_SNAPSHOTS),
)
