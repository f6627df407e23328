"""Who may call what: the access token, and control calls for the node only, by its secret (current-protocol 4.7)."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandpit.guest.agent.control.secrets import HEADER

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from sandpit.guest.agent.control.state import AgentState

CONTROL_PATHS = frozenset({"/init", "/freeze", "/unfreeze", "/disk", "/changes", "/journal", "/memory"})
_TOKENLESS = frozenset({("GET", "/health"), ("GET", "/files"), ("POST", "/files")})
_UNAUTHORIZED = "unauthorized access, please provide a valid access token or method signing if supported"


def token_matches(state: AgentState, token: str | bytes | None) -> bool:
    """Whether `token` opens the sandbox; compared in constant time. Without a token it is open to all."""
    if state.access_token is None:
        return True
    if token is None:
        return False
    given = token.encode("latin-1", "replace") if isinstance(token, str) else token
    return hmac.compare_digest(given, state.access_token.encode())


@dataclass(slots=True)
class Guard:
    """ASGI layer in front of all routes. /health is open; /files checks token or signature itself."""

    app: ASGIApp
    state: AgentState

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"] in CONTROL_PATHS:
            if comes_from_node(self.state, scope):
                await self.app(scope, receive, send)
            else:  # the edge and code in the sandbox get the same answer as for a path that does not exist
                await _refuse(send, 404, "not found")
        elif (scope["method"], scope["path"]) in _TOKENLESS or token_matches(self.state, only_token(scope)):
            await self.app(scope, receive, send)
        else:
            await _refuse(send, 401, _UNAUTHORIZED)


def comes_from_node(state: AgentState, scope: Scope) -> bool:
    """Whether a control call is the node's: by the sandbox's secret. The peer's address is a second line, which root can forge."""
    if state.control is None or scope["client"] is None or scope["client"][0] != state.gateway:
        return False
    secrets = [value for name, value in scope["headers"] if name == HEADER]
    return len(secrets) == 1 and state.control.opens_control(secrets[0])


def only_token(scope: Scope) -> bytes | None:
    """The token that a request carries, None without one."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    values = [value for name, value in headers if name == b"x-access-token"]
    # Two tokens contradict each other: which one another layer looked at is unknown.
    return values[0] if len(values) == 1 else None


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"code": status, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
