"""The heads that the edge sends on: hop-by-hop fields end here, everything else passes as it came (RFC 9110, 7.6)."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .routing import Route
    from .wire import Request, Response

_HOPS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
     b"upgrade", b"http2-settings", b"transfer-encoding"}
)  # fmt: skip
_FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port",
     b"x-forwarded-prefix", b"x-real-ip"}
)  # fmt: skip
"""Only the edge says these: what a client claims about itself is worth nothing."""
_END_TO_END = frozenset({b"host", b"content-length", b"close", b"upgrade"})
"""Not header names that `Connection` may take away."""
_CONTROL = frozenset({b"x-sandpit-control"})
"""What a sandbox's agent knows the node by: no client has it, and none may try."""
_DROPPED = _HOPS | _FORWARDED | _CONTROL
_TOKEN = b"x-access-token"
_LENGTH = frozenset({b"content-length"})
"""Not in answers that cannot have a body: clients that believe it would wait (RFC 9110, 8.6)."""


def _kept(headers: list[tuple[bytes, bytes, bytes]], dropped: frozenset[bytes], secret: bytes = b"") -> list[bytes]:
    """All but the dropped ones, and but those that show the agent's token (`secret`)."""
    return [
        b"%s: %s\r\n" % (shown, value)
        for name, shown, value in headers
        if name not in dropped and not (secret and name == _TOKEN and hmac.compare_digest(value.strip(), secret))
    ]


def _dropped(base: frozenset[bytes], hops: frozenset[bytes]) -> frozenset[bytes]:
    return base | (hops - _END_TO_END) if hops else base


def _forwarded(host: bytes, peer: bytes, scheme: bytes) -> bytes:
    node = b'"[%s]"' % peer if b":" in peer else peer
    return (
        b"X-Forwarded-For: %s\r\nX-Forwarded-Host: %s\r\nX-Forwarded-Proto: %s\r\nX-Real-IP: %s\r\n"
        b'Forwarded: for=%s;host="%s";proto=%s\r\n'
    ) % (peer, host, scheme, peer, node, host, scheme)


def request_head(
    request: Request, route: Route, *, is_user_port: bool, upgrade: bytes, peer: bytes, scheme: bytes
) -> bytes:
    """The head towards the sandbox or the API. `upgrade` is the protocol to ask for, empty for none.

    `peer` is the client's address. User ports and the API learn where the request came from; the agent need not. The agent's
    token, which clients send to the interpreter as well, reaches the agent alone: whoever listens elsewhere may be any user.
    """
    dropped = _dropped(_DROPPED, request.hops)
    host = request.fields.get(b"host", b"")
    target = route.target
    mask = target.mask_request_host if target and is_user_port else None
    parts = [b"%s %s HTTP/1.1\r\n" % (request.method, route.path)]
    if mask is not None:
        parts.append(b"Host: %s\r\n" % mask.replace("${PORT}", str(route.port)).encode())
        dropped |= {b"host"}
    elif not host:
        parts.append(b"Host: localhost\r\n")
        dropped |= {b"host"}
    token = target.access_token if target is not None and is_user_port else None
    parts += _kept(request.headers, dropped, token.encode() if token else b"")
    if b"transfer-encoding" in request.fields:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if upgrade:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %s\r\n" % upgrade)
    if is_user_port:
        parts.append(_forwarded(host, peer, scheme))
    parts.append(b"\r\n")
    return b"".join(parts)


def response_head(response: Response, *, http11: bool, chunked: bool, keep_alive: bool) -> bytes:
    """The head towards the client. `chunked` says whether the body that follows is."""
    parts = [b"HTTP/1.1 %d %s\r\n" % (response.status, response.reason)]
    dropped = _HOPS | _LENGTH if response.status == HTTPStatus.NO_CONTENT else _HOPS
    parts += _kept(response.headers, _dropped(dropped, response.hops))
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if not keep_alive:
        parts.append(b"Connection: close\r\n")
    elif not http11:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def interim_head(response: Response) -> bytes:
    """A 1xx head, 101 included: the upgrade belongs to both sides."""
    dropped = (_HOPS | _LENGTH) - {b"upgrade"}
    parts = [b"HTTP/1.1 %d %s\r\n" % (response.status, response.reason), *_kept(response.headers, dropped)]
    if response.status == 101:
        parts.append(b"Connection: Upgrade\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)
