"""JSON-RPC 2.0 over one websocket (legacy-protocol 3.1 to 3.3)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.websockets import WebSocketDisconnect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.websockets import WebSocket

_LOG = logging.getLogger(__name__)

FAILED = -32000
_INVALID_REQUEST, _UNKNOWN_METHOD, _INVALID_PARAMS, _INTERNAL, _PARSE = -32600, -32601, -32602, -32603, -32700
MAX_CALLS = 256
"""Calls of one connection that run at once; then it is not read until one ends."""
_CALM_S, _LONGEST_CALM_S = 0.05, 1.0
"""Without events after an answer about a subscription, for clients with threads (`_Calm`)."""
_PATIENCE_S = 9.5
"""JavaScript's clients give up after 10 s and end their whole process when an answer comes later (fact 5)."""

Json = Any


class RpcError(Exception):
    """An error answer; most failures of methods have the code -32000."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.message, self.code = message, code


@dataclass(frozen=True, slots=True)
class Method:
    """One method: what runs it, the types of its positional parameters, and how many it insists on."""

    run: Callable[..., Awaitable[Json]]
    types: tuple[type, ...]
    required: int


class Service(Protocol):
    """One namespace of methods and events."""

    methods: Mapping[str, Method]
    events: Mapping[str, int]
    """Names of subscriptions, and how many text arguments each takes."""

    async def subscribe(self, subscription: Subscription) -> None:
        """Begin to `send` events to it. Raises: RpcError."""

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send it no more."""


class Subscription:
    """One client's wish to hear of an event. What comes before its id has reached the client waits here."""

    def __init__(self, connection: Connection, service: str, event: str, arguments: tuple[str, ...]) -> None:
        self.id = "0x" + secrets.token_hex(16)
        self.service, self.event, self.arguments = service, event, arguments
        self.topic = (event, *arguments)
        self._connection = connection
        self._early: list[Json] | None = []

    async def send(self, result: Json) -> None:
        """Deliver an event; to a client that has gone, nothing happens."""
        if self._early is not None:
            self._early.append(result)
            return
        await self._connection.notify(self, result)

    async def release(self) -> None:
        """The client knows the id: deliver what came meanwhile, in order."""
        early, self._early = self._early or [], []
        while early:
            for result in early:
                await self._connection.notify(self, result)
            early, self._early = self._early, []
        self._early = None


class Topics:
    """Who listens to what, of all connections."""

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, ...], list[Subscription]] = {}

    def add(self, subscription: Subscription) -> None:
        self._listeners.setdefault(subscription.topic, []).append(subscription)

    def remove(self, subscription: Subscription) -> None:
        listeners = self._listeners.get(subscription.topic, [])
        if subscription in listeners:
            listeners.remove(subscription)
        if not listeners:
            self._listeners.pop(subscription.topic, None)

    async def publish(self, topic: tuple[str, ...], result: Json) -> None:
        """Tell all listeners, at the pace of the slowest."""
        for subscription in tuple(self._listeners.get(topic, ())):
            await subscription.send(result)


class _Calm:
    """A moment without events after each answer about a subscription.

    Python's client changes its table of subscriptions in another thread than the one that goes through it for each event: one that
    comes at that very moment ends the thread ("dictionary changed size during iteration"), and with it the connection's use.
    """

    def __init__(self) -> None:
        self._length = _CALM_S
        self._answered = self._began = self._until = 0.0

    def begin(self) -> None:
        """The client is about to change its table. A client that does nothing else hears of events all the same, now and then."""
        now = self._answered = asyncio.get_running_loop().time()
        if now >= self._until:
            self._began = now
        self._until = min(now + self._length, self._began + 4 * self._length)

    def measure(self) -> None:
        """The client starts something, for which it had waited for its subscriptions: so long it takes to do a thing."""
        if self._answered:
            lag = asyncio.get_running_loop().time() - self._answered
            self._length = min(max(_CALM_S, 4 * lag), _LONGEST_CALM_S)

    async def wait(self) -> None:
        """Return when events may be sent."""
        loop = asyncio.get_running_loop()
        while (pause := self._until - loop.time()) > 0:
            await asyncio.sleep(pause)


class Connection:
    """One client's websocket. Calls on it run side by side; its subscriptions end with it."""

    def __init__(self, socket: WebSocket, services: Mapping[str, Service]) -> None:
        self._socket, self._services = socket, services
        self._subscriptions: dict[str, Subscription] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_CALLS)
        self._calm = _Calm()

    async def serve(self) -> None:
        """Answer until the client goes."""
        try:
            while True:
                text = await self._socket.receive_text()
                try:
                    message = json.loads(text)
                except (ValueError, RecursionError):
                    await self.send(_error(None, _PARSE, "parse error"))
                    await self._socket.close()
                    return
                await self._room.acquire()
                call = asyncio.create_task(self._answer(message))
                self._calls.add(call)
                call.add_done_callback(self._ended)
        except (WebSocketDisconnect, KeyError):  # KeyError: a binary message, which no client of 2024 sends
            pass
        finally:
            for call in tuple(self._calls):
                call.cancel()
            for subscription in self._subscriptions.values():
                self._services[subscription.service].unsubscribe(subscription)

    async def send(self, message: Json) -> None:
        """Send a message; to a client that has gone, nothing happens."""
        # RuntimeError: starlette's word for a connection that was closed before.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_text(json.dumps(message, separators=(",", ":")))

    async def notify(self, subscription: Subscription, result: Json) -> None:
        """Deliver an event."""
        await self._calm.wait()
        params = {"subscription": subscription.id, "result": result}
        await self.send({"jsonrpc": "2.0", "method": f"{subscription.service}_subscription", "params": params})

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._room.release()

    async def _answer(self, message: Json) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        if isinstance(message, list):
            parts = [await self._one(part) for part in message] or [(_refuse(message), None)]
            await self.send([answer for answer, _ in parts if answer is not None])
        else:
            parts = [await self._one(message)]
            answer = parts[0][0]
            given_up = answer is not None and isinstance(answer["id"], str) and loop.time() - started > _PATIENCE_S
            if answer is not None and not given_up:
                await self.send(answer)
                if isinstance(answer["id"], int) and str(message.get("method")).endswith("subscribe"):
                    self._calm.begin()
        for _, subscription in parts:
            if subscription is not None:
                await subscription.release()

    async def _one(self, message: Json) -> tuple[dict[str, Json] | None, Subscription | None]:
        """The answer to one request, and the subscription that it made."""
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return _refuse(message), None
        identity = message.get("id")
        try:
            result = await self._call(message["method"], message.get("params"))
        except RpcError as error:
            return _error(identity, error.code, error.message), None
        except Exception:  # noqa: BLE001 - one call's trouble must not end the connection
            _LOG.exception("%s failed", message["method"][:100])
            return _error(identity, _INTERNAL, "method handler crashed"), None
        subscription = result if isinstance(result, Subscription) else None
        answer = {"jsonrpc": "2.0", "id": identity, "result": subscription.id if subscription else result}
        return (answer if "id" in message else None), subscription

    async def _call(self, name: str, params: Json) -> Json:
        service_name, _, method_name = name.partition("_")
        service = self._services.get(service_name)
        if not isinstance(params, list | None):
            raise RpcError("non-array args", _INVALID_PARAMS)
        if service is not None and method_name == "subscribe":
            return await self._subscribe(service_name, service, params or [])
        if service is not None and method_name == "unsubscribe":
            return self._unsubscribe(params or [])
        method = service.methods.get(method_name) if service is not None else None
        if method_name == "start":
            self._calm.measure()
        if method is None:
            raise RpcError(f"the method {name} does not exist/is not available", _UNKNOWN_METHOD)
        return await method.run(*_arguments(params or [], method.types, method.required))

    async def _subscribe(self, name: str, service: Service, params: list[Json]) -> Subscription:
        (event,) = _arguments(params[:1], (str,), 1)
        if event not in service.events:
            raise RpcError(f'no "{event}" subscription in {name} namespace', _UNKNOWN_METHOD)
        count = service.events[event]
        subscription = Subscription(self, name, event, tuple(_arguments(params[1:], (str,) * count, count)))
        await service.subscribe(subscription)
        self._subscriptions[subscription.id] = subscription
        return subscription

    def _unsubscribe(self, params: list[Json]) -> bool:
        (identity,) = _arguments(params, (str,), 1)
        subscription = self._subscriptions.pop(identity, None)
        if subscription is None:
            raise RpcError("subscription not found")
        self._services[subscription.service].unsubscribe(subscription)
        return True


def _arguments(params: list[Json], types: tuple[type, ...], required: int) -> list[Json]:
    """Positional parameters, null and missing ones as the type's empty value. Raises: RpcError."""
    if len(params) > len(types):
        raise RpcError(f"too many arguments, want at most {len(types)}", _INVALID_PARAMS)
    if len(params) < required:
        raise RpcError(f"missing value for required argument {len(params)}", _INVALID_PARAMS)
    values = [*params, *[None] * (len(types) - len(params))]
    for number, (value, kind) in enumerate(zip(values, types, strict=True)):
        fits = value is None or (isinstance(value, kind) and not isinstance(value, bool))
        if isinstance(value, dict) and not all(isinstance(part, str) for part in value.values()):
            fits = False
        if not fits:
            raise RpcError(f"invalid argument {number}: a {kind.__name__} is wanted", _INVALID_PARAMS)
    return [kind() if value is None else value for value, kind in zip(values, types, strict=True)]


def _refuse(message: Json) -> dict[str, Json]:
    """The answer to what is no request."""
    identity = message.get("id") if isinstance(message, dict) else None
    return _error(identity, _INVALID_REQUEST, "invalid request")


def _error(identity: Json, code: int, message: str) -> dict[str, Json]:
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": message}}
