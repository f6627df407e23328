"""The Connect protocol with JSON messages, as Starlette routes (current-protocol 4.1-4.5)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.routing import Route

from sandpit.guest.agent.accounts import Account, UnknownAccountError, find_account
from sandpit.guest.agent.connect_wire import (
    ConnectError,
    Message,
    StreamAnswer,
    decode,
    encode,
    envelopes,
    error_json,
    read_body,
    refuse_media_type,
    respond,
    single,
)
from sandpit.protocol import connect as protocol

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from sandpit.guest.agent.control.state import AgentState

UnaryHandler = Callable[[Message, "Call"], Awaitable[Message | bytes]]
"""Bytes are a message that is JSON already."""
ServerStreamHandler = Callable[[Message, "Call"], AsyncGenerator[Message | bytes, None]]
"""Yields messages; bytes are a message that is JSON already.

Closed when the client goes away or the deadline passes.
"""
ClientStreamHandler = Callable[[AsyncIterator[Message], "Call"], Awaitable[Message]]

DEFAULT_KEEPALIVE_S = 90.0


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
            await refuse_media_type(send, "application/json")
            return
        try:
            call = _call(scope, headers)
            message = decode(await read_body(receive))
            async with _deadline(call):
                answer = await self.handler(message, call)
        except ConnectError as error:
            await respond(send, protocol.HTTP_STATUS[error.code], "application/json", error_json(error))
            return
        body = answer if isinstance(answer, bytes) else encode(answer)
        await respond(send, 200, "application/json", body)


@dataclass(slots=True)
class _ServerStream:
    handler: ServerStreamHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if _media_type(headers) != protocol.STREAM_TYPE:
            await refuse_media_type(send, protocol.STREAM_TYPE)
            return
        answer = StreamAnswer(send)
        try:
            call = _call(scope, headers)
            message = single(await read_body(receive))
            async with _deadline(call):
                gone = await _run_until_disconnect(self._pump(message, call, answer), receive)
        except ConnectError as error:
            await answer.end(error)
            return
        if not gone:
            await answer.end()

    async def _pump(self, message: Message, call: Call, answer: StreamAnswer) -> None:
        async with contextlib.aclosing(self.handler(message, call)) as messages:
            async for one in messages:
                await answer.put(one if isinstance(one, bytes) else encode(one))


@dataclass(slots=True)
class _ClientStream:
    handler: ClientStreamHandler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if _media_type(headers) != protocol.STREAM_TYPE:
            await refuse_media_type(send, protocol.STREAM_TYPE)
            return
        try:
            call = _call(scope, headers)
            async with _deadline(call), contextlib.aclosing(envelopes(receive)) as messages:
                payload = encode(await self.handler(messages, call))
        except ConnectError as error:
            await StreamAnswer(send).end(error)
            return
        answer = StreamAnswer(send)
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
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
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


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
