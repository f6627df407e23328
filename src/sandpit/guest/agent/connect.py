"""The Connect protocol with JSON messages, as Starlette routes (current-protocol 4.1-4.5).

Messages are plain dicts in proto3's JSON mapping. `fields.py` reads them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.routing import Route

from sandpit.guest.agent.accounts import Account, UnknownAccountError, find_account

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from sandpit.guest.agent.state import AgentState

Message = dict[str, Any]
UnaryHandler = Callable[[Message, "Call"], Awaitable[Message | bytes]]
"""Bytes are a message that is JSON already."""
ServerStreamHandler = Callable[[Message, "Call"], AsyncGenerator[Message | bytes, None]]
"""Yields messages; bytes are a message that is JSON already.

Closed when the client goes away or the deadline passes.
"""
ClientStreamHandler = Callable[[AsyncIterator[Message], "Call"], Awaitable[Message]]

MAX_MESSAGE_BYTES = 64 << 20
DEFAULT_KEEPALIVE_S = 90.0

_ENVELOPE = struct.Struct(">BI")
_COMPRESSED = 0x01
_END_STREAM = 0x02
_STREAM_TYPE = "application/connect+json"

HTTP_STATUS = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}


class ConnectError(Exception):
    """An answer with a Connect error code (a key of HTTP_STATUS) and a text for the client's user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(slots=True)
class Call:
    """What is known about a call besides its message."""

    state: AgentState
    headers: Headers
    timeout_s: float | None
    """`Connect-Timeout-Ms` in seconds. Routes end the call at this time; None means no limit."""
    keepalive_s: float
    """Silence after which a stream sends a keepalive message."""

    @property
    def account(self) -> Account:
        """The call's Linux user: the Basic auth name, else the default user. Raises: ConnectError unauthenticated."""
        try:
            return find_account(basic_user(self.headers.get("authorization")) or self.state.default_user)
        except UnknownAccountError as error:
            raise ConnectError("unauthenticated", str(error)) from None


def unary(path: str, handler: UnaryHandler) -> Route:
    """A route whose handler answers one message with one."""
    return Route(path, _Unary(handler), methods=["POST"])


def server_stream(path: str, handler: ServerStreamHandler) -> Route:
    """A route whose handler answers one message with many."""
    return Route(path, _ServerStream(handler), methods=["POST"])


def client_stream(path: str, handler: ClientStreamHandler) -> Route:
    """A route whose handler answers many messages with one."""
    return Route(path, _ClientStream(handler), methods=["POST"])


def basic_user(authorization: str | None) -> str | None:
    """The user name of a Basic `Authorization` header; None when there is none. The password is ignored (4.7)."""
    if authorization is None:
        return None
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0] or None
    except (binascii.Error, UnicodeDecodeError):
        raise ConnectError("unauthenticated", "the Authorization header is not valid Basic authentication") from None


@dataclass(slots=True)
class _Unary:
    handler: UnaryHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if _media_type(headers) != "application/json":
            await _unsupported(send, "application/json")
            return
        try:
            call = _call(scope, headers)
            message = _decode(await _body(receive))
            async with _deadline(call):
                answer = await self.handler(message, call)
        except ConnectError as error:
            await _respond(send, HTTP_STATUS[error.code], "application/json", _error_json(error))
            return
        body = answer if isinstance(answer, bytes) else _encode(answer)
        await _respond(send, 200, "application/json", body)


@dataclass(slots=True)
class _ServerStream:
    handler: ServerStreamHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if _media_type(headers) != _STREAM_TYPE:
            await _unsupported(send, _STREAM_TYPE)
            return
        answer = _Answer(send)
        try:
            call = _call(scope, headers)
            message = _single(await _body(receive))
            async with _deadline(call):
                gone = await _run_until_disconnect(self._pump(message, call, answer), receive)
        except ConnectError as error:
            await answer.end(error)
            return
        if not gone:
            await answer.end()

    async def _pump(self, message: Message, call: Call, answer: _Answer) -> None:
        async with contextlib.aclosing(self.handler(message, call)) as messages:
            async for one in messages:
                await answer.put(one if isinstance(one, bytes) else _encode(one))


@dataclass(slots=True)
class _Answer:
    """A stream of messages. Its head goes out with the first of them, in one packet: each one wakes edge and client."""

    send: Send
    started: bool = False

    async def put(self, payload: bytes) -> None:
        """Send one message, which is JSON already."""
        await self._start()
        body = _ENVELOPE.pack(0, len(payload)) + payload
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, error: ConnectError | None = None) -> None:
        """Finish the stream."""
        await self._start()
        await _end_stream(self.send, error)

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            await _start_stream(self.send)


@dataclass(slots=True)
class _ClientStream:
    handler: ClientStreamHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if _media_type(headers) != _STREAM_TYPE:
            await _unsupported(send, _STREAM_TYPE)
            return
        try:
            call = _call(scope, headers)
            async with _deadline(call), contextlib.aclosing(_envelopes(receive)) as messages:
                payload = _encode(await self.handler(messages, call))
        except ConnectError as error:
            await _Answer(send).end(error)
            return
        answer = _Answer(send)
        await answer.put(payload)
        await answer.end()


def _call(scope: Scope, headers: Headers) -> Call:
    return Call(scope["app"].state.agent, headers, _timeout(headers), _keepalive(headers))


def _timeout(headers: Headers) -> float | None:
    text = headers.get("connect-timeout-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise ConnectError("invalid_argument", f"Connect-Timeout-Ms is not a number of milliseconds: {text!r}")
    return int(text) / 1000 or None


def _keepalive(headers: Headers) -> float:
    text = headers.get("keepalive-ping-interval", "")
    if not (text.isascii() and text.isdecimal()):
        return DEFAULT_KEEPALIVE_S
    return float(text) or DEFAULT_KEEPALIVE_S


@contextlib.asynccontextmanager
async def _deadline(call: Call) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(call.timeout_s) as deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise ConnectError("deadline_exceeded", "the call's deadline passed") from None


async def _run_until_disconnect(work: Any, receive: Receive) -> bool:
    """Run `work` to its end; end it early, and return True, when the client goes away."""
    gone = False

    async def watch(task: asyncio.Task[None]) -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(watch(task))
    try:
        await task
    except asyncio.CancelledError:
        if not gone:
            raise
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait((task, watcher))
    return gone


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size > MAX_MESSAGE_BYTES:
            raise ConnectError("resource_exhausted", f"the message is larger than {MAX_MESSAGE_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _chunks(receive: Receive) -> AsyncGenerator[bytes, None]:
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectError("canceled", "the client went away before the message was complete")
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def _envelopes(receive: Receive) -> AsyncGenerator[Message, None]:
    buffer = bytearray()
    async for chunk in _chunks(receive):
        buffer += chunk
        while (end := _envelope_end(buffer)) is not None:
            message = _single(bytes(buffer[:end]))
            del buffer[:end]
            yield message
    if buffer:
        raise ConnectError("invalid_argument", "the stream ended inside a message")


def _envelope_end(buffer: bytearray) -> int | None:
    """Where the first envelope ends; None while it is incomplete."""
    if len(buffer) < _ENVELOPE.size:
        return None
    length: int = _ENVELOPE.unpack_from(buffer)[1]
    if length > MAX_MESSAGE_BYTES:
        raise ConnectError("resource_exhausted", f"the message is larger than {MAX_MESSAGE_BYTES} bytes")
    end = _ENVELOPE.size + length
    return end if len(buffer) >= end else None


def _single(body: bytes) -> Message:
    """The message of a body that is exactly one envelope."""
    if len(body) < _ENVELOPE.size:
        raise ConnectError("invalid_argument", "the request holds no message")
    flags, length = _ENVELOPE.unpack_from(body)
    if flags & _COMPRESSED:
        raise ConnectError("unimplemented", "compressed messages are not supported; send them with identity encoding")
    if flags or len(body) != _ENVELOPE.size + length:
        raise ConnectError("invalid_argument", "the request is not exactly one message")
    return _decode(body[_ENVELOPE.size :])


def _decode(payload: bytes) -> Message:
    try:
        message = json.loads(payload or b"{}")
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        raise ConnectError("invalid_argument", "the message is not valid JSON") from None
    except RecursionError:
        raise ConnectError("invalid_argument", "the message is nested too deeply") from None
    if not isinstance(message, dict):
        raise ConnectError("invalid_argument", "the message is not a JSON object")
    return message


def _encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _error_json(error: ConnectError) -> bytes:
    return _encode({"code": error.code, "message": error.message})


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def _unsupported(send: Send, wanted: str) -> None:
    error = ConnectError("unknown", f"unsupported content type: send {wanted}")
    await _respond(send, 415, "application/json", _error_json(error))


async def _respond(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _start_stream(send: Send) -> None:
    headers = [(b"content-type", _STREAM_TYPE.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _end_stream(send: Send, error: ConnectError | None = None) -> None:
    end: Message = {"error": {"code": error.code, "message": error.message}, "metadata": {}} if error else {}
    payload = _encode(end)
    body = _ENVELOPE.pack(_END_STREAM, len(payload)) + payload
    await send({"type": "http.response.body", "body": body})
