"""Requests and answers of the API: bodies, parameters, credentials, errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.convertors import Convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from sandpit.api.http import jsontext
from sandpit.api.http.params import WHOLE_NUMBER, Param
from sandpit.api.routes import legacy
from sandpit.control import ids
from sandpit.control.errors import (
    BodyTooLargeError,
    BusyError,
    ControlError,
    InvalidRequestError,
    LimitReachedError,
    NotFoundError,
    UnauthorizedError,
)
from sandpit.control.limits import MAX_ID, MAX_QUERY_BYTES, MAX_QUERY_PARAMETERS, shortened

if TYPE_CHECKING:
    from starlette.exceptions import HTTPException

    from sandpit.control.accounts.teams import Identity
    from sandpit.control.app import ControlPlane

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose caller is known, on the route that it came for."""

    request: Request
    control: ControlPlane
    identity: Identity
    route: ApiRoute

    def path(self, name: str) -> str:
        """A path parameter, decoded. Raises: NotFoundError (nothing has such a name)."""
        text = str(self.request.path_params[name])
        if len(text) > MAX_ID or "\0" in text:
            raise NotFoundError(f"there is nothing with the name '{shortened(text, 100)!r}'")
        return text

    def sandbox_id(self) -> str:
        """The path's sandbox id. Raises: NotFoundError (nothing that could be one)."""
        text = self.path("id")
        if (found := ids.parse_sandbox_id(text)) is None:
            raise NotFoundError(f"sandbox '{text[:100]}' not found")
        return found

    def query(self, param: Param) -> str | None:
        """A query parameter that the route declares, None when absent or empty. Raises: InvalidRequestError."""
        values = self._values(param)
        return values[-1] if values and values[-1] else None

    def query_list(self, param: Param) -> list[str]:
        """The values of a parameter that may come several times, or hold several with commas between them. Raises: InvalidRequestError."""
        parts = [part for value in self._values(param) for part in value.split(",") if part]
        if len(parts) > param.items:
            raise InvalidRequestError(f"{param.name}: at most {param.items} values, got {len(parts)}")
        return parts

    def query_int(self, param: Param) -> int | None:
        """Raises: InvalidRequestError."""
        text = self.query(param)
        if text is None:
            return None
        if not WHOLE_NUMBER.fullmatch(text):
            raise InvalidRequestError(f"{param.name} must be a whole number, got '{text[:100]}'")
        return int(text)

    async def body(self, model: type[Model]) -> Model:
        """The JSON body that the route declares; an absent one is an empty object. Raises: InvalidRequestError, BodyTooLargeError."""
        assert model is self.route.body, f"{self.route.path} declares another body"
        return await json_body(self.request, self.control.settings.max_body_bytes, model)

    def _values(self, param: Param) -> list[str]:
        assert param in self.route.query, f"{self.route.path} does not declare {param.name}"
        values = self.request.query_params.getlist(param.name)
        if any(len(value) > param.length for value in values):
            raise InvalidRequestError(f"{param.name} has more than {param.length} characters")
        if any("\0" in value for value in values):
            raise InvalidRequestError(f"{param.name} holds a NUL character")
        return values


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One row of the route table: all that the route takes and may answer. Every route demands a key."""

    method: str
    path: str
    handler: Handler
    success: int | tuple[int, ...] = 200
    body: type[BaseModel] | None = None
    query: tuple[Param, ...] = ()
    errors: tuple[int, ...] = ()
    """Statuses beside those that every route may answer (`openapi.ALWAYS`)."""


class Segment(Convertor[str]):
    """One segment of the raw path, decoded after matching: it may hold `/` and `:` (current-protocol 3.1)."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)

    def to_string(self, value: str) -> str:
        raise NotImplementedError("links are not made from this table")


def check_query(request: Request) -> None:
    """Limit a query string before anything parses it. Raises: InvalidRequestError."""
    text: bytes = request.scope["query_string"]
    if len(text) > MAX_QUERY_BYTES:
        raise InvalidRequestError(f"the query string has more than {MAX_QUERY_BYTES} bytes")
    if text.count(b"&") >= MAX_QUERY_PARAMETERS:
        raise InvalidRequestError(f"the query string has more than {MAX_QUERY_PARAMETERS} parameters")


async def json_body(request: Request, limit: int, model: type[Model]) -> Model:
    """The JSON body as `model`; an absent one is an empty object. Raises: InvalidRequestError, BodyTooLargeError."""
    raw = await read_body(request, limit)
    value = jsontext.parse(raw.strip() or b"{}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequestError(f"validation error: {_explain(error)}") from error


async def read_body(request: Request, limit: int) -> bytes:
    """The body, with a Content-Length or chunked. Raises: BodyTooLargeError, InvalidRequestError."""
    too_large = BodyTooLargeError(f"the request body is larger than {limit} bytes")
    length = request.headers.get("content-length", "")
    if WHOLE_NUMBER.fullmatch(length) and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect as error:
        raise InvalidRequestError("the connection ended in the middle of the body") from error
    return bytes(body)


async def authenticate(request: Request, control: ControlPlane) -> Identity:
    """Who calls: by `X-API-Key`, else by `Authorization: Bearer sk_e2b_...`. Raises: UnauthorizedError."""
    if control.local is not None:
        return control.local
    keys = set(request.headers.getlist("x-api-key"))
    if len(keys) > 1:
        raise UnauthorizedError("There are different X-API-Key headers: send one.")
    if keys:
        return await control.services.keys.authenticate(keys.pop())
    token = bearer_token(request)
    if token is None:
        raise UnauthorizedError("The X-API-Key header is missing: set E2B_API_KEY to a key of this server.")
    return await control.services.keys.authenticate_token(token)


def bearer_token(request: Request) -> str | None:
    """The access token in the Authorization header. Raises: UnauthorizedError (another scheme or prefix)."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(ids.TOKEN_PREFIX):
        raise UnauthorizedError(f"The Authorization header must be 'Bearer {ids.TOKEN_PREFIX}...', an access token.")
    return token


def error_response(
    status: int, message: str, *, error_code: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The error body (current-protocol 2): JavaScript clients decide by its `code`, not by the status."""
    body: dict[str, int | str] = {"code": status, "message": shortened(message)}
    if error_code is not None:
        body["error_code"] = error_code
    return JSONResponse(body, status, headers)


async def on_control_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    headers = {}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_seconds)
    elif isinstance(error, LimitReachedError):
        headers["Should-Retry"] = "false"  # it stays true until a sandbox ends
    status = legacy.status_for(request, error)
    return error_response(status, error.message, error_code=error.error_code, headers=headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the router raises: 404 and 405."""
    http_error: HTTPException = error  # type: ignore[assignment]
    status = http_error.status_code
    if status == 404:
        message = f"no route for {request.url.path}"
    elif status == 405:
        message = f"{request.url.path} does not know the method {request.method}"
    else:
        message = http_error.detail
    headers = dict(http_error.headers) if http_error.headers else None
    return error_response(status, message, headers=headers)


async def on_store_error(_request: Request, error: Exception) -> Response:
    """The records cannot be read or written: a full disk, a database that is away."""
    log.error("the store failed", exc_info=error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    message = f"the server's records cannot be read or written: {cause}. Nothing was changed, or it is undone."
    return error_response(500, message, error_code="store_unavailable")


async def on_unexpected(_request: Request, _error: Exception) -> Response:
    return error_response(500, "internal server error: see the server's log", error_code="internal_server_error")


def _explain(error: ValidationError) -> str:
    """The first few things that are wrong, each with its place in the body."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    parts = []
    for problem in problems[:3]:
        place = ".".join(shortened(str(part), 60) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}" if place else message)
    return "; ".join(parts)
