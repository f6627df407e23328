"""Which sandbox and port a request is for (current-protocol 1.6-1.8, legacy-protocol 1.1, 1.4)."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandpit.protocol import ports

from .refusals import Refusal, sandbox_not_found
from .reserved import is_reserved
from .signatures import find_signed, opens

if TYPE_CHECKING:
    from sandpit.contract.directory import Directory, Target

    from .wire import Request

AGENT_PORTS = frozenset({ports.AGENT, ports.LEGACY_AGENT})
_PORT = re.compile(rb"[1-9][0-9]{0,4}")
_SANDBOX_ID = re.compile(rb"([a-z0-9]+)(?:-[a-z0-9]+)?")
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_DIGITS = re.compile(rb"[0-9]+")
_INVALID_HOST = "Invalid host"
_SHOWN = 200
"""Bytes of a path that an error repeats."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes; no target means the API."""

    target: Target | None
    port: int
    path: bytes
    """Request target in origin form, query included."""


@dataclass(frozen=True, slots=True)
class _Address:
    sandbox_id: str
    port: int


def parse_port(text: bytes) -> int | None:
    """The port that canonical decimal `text` names, None for anything else (signs, leading zeros, over 65535)."""
    if not _PORT.fullmatch(text):
        return None
    port = int(text)
    return port if port <= 65535 else None


def _split_host(host: bytes) -> bytes:
    """The lower-case name in a Host header without port and final dot."""
    match = _HOST.fullmatch(host.lower())
    if not match:
        raise Refusal(400, _INVALID_HOST)
    return match[1].removesuffix(b".")


def _origin_form(request: Request, host: bytes) -> bytes:
    """The path and query of the request; an absolute request target must agree with Host."""
    target = request.target
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match:
            if match[1].lower() != host.lower():
                raise Refusal(400, "The request target and the Host header contradict each other")
            target = match[2] if match[2].startswith(b"/") else b"/" + match[2]
        elif not (target == b"*" and request.method == b"OPTIONS"):
            raise Refusal(400, "The request target must be a path")
    if b"#" in target:
        raise Refusal(400, "The request target must not have a fragment")
    return target


def _from_headers(request: Request) -> _Address | None:
    sandbox_id, port = request.fields.get(b"e2b-sandbox-id"), request.fields.get(b"e2b-sandbox-port")
    if sandbox_id is None and port is None:
        return None
    if sandbox_id is None or port is None:
        missing = "E2b-Sandbox-Id" if sandbox_id is None else "E2b-Sandbox-Port"
        raise Refusal(400, f"Header '{missing}' is missing")
    match, number = _SANDBOX_ID.fullmatch(sandbox_id), parse_port(port)
    if not match:
        raise Refusal(400, "Header 'E2b-Sandbox-Id' is not a sandbox id")
    if number is None:
        raise Refusal(400, "Header 'E2b-Sandbox-Port' is not a port")
    return _Address(match[1].decode(), number)


def _from_label(label: bytes, directory: Directory) -> _Address | None:
    """What `{port}-{id}`, `{port}-{id}-{client}` or the 2024 name without port, `{id}-{client}`, says; None if nothing.

    Raises Refusal for a label that means to name a port but does not.
    """
    first, dash, rest = label.partition(b"-")
    if not dash:
        return None
    match = _SANDBOX_ID.fullmatch(rest)
    port = parse_port(first)
    if match and port is not None:
        return _Address(match[1].decode(), port)
    if _DIGITS.fullmatch(first):
        raise Refusal(400, _INVALID_HOST)
    known = _SANDBOX_ID.fullmatch(label)
    if known and directory.find(known[1].decode()):
        return _Address(known[1].decode(), 80)
    return None


def _is_ip(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.decode().strip("[]"))
    except ValueError:
        return False
    return True


def _from_host(name: bytes, directory: Directory) -> _Address | None:
    label, dot, _ = name.partition(b".")
    if not dot or _is_ip(name):
        return None
    return _from_label(label, directory)


def _from_credentials(request: Request, directory: Directory) -> _Address | None:
    """The sandbox in the user name of Basic credentials: what a 2024 client without DNS sends (legacy-protocol 1.4)."""
    scheme, _, value = request.fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user = base64.b64decode(value, validate=True).partition(b":")[0]
    except binascii.Error:
        return None
    label, dot, _ = user.partition(b".")
    return _from_label(label, directory) if dot else None


def _from_token(request: Request, directory: Directory) -> _Address | None:
    """The agent that the access token belongs to.

    After connect(), Python clients 2.7 to 2.26 with one address for all sandboxes send nothing else that names one.
    """
    token = request.fields.get(b"x-access-token")
    if not token:
        return None
    for target in directory.targets():
        if target.access_token is not None and hmac.compare_digest(target.access_token.encode(), token):
            return _Address(target.sandbox_id, ports.AGENT)
    return None


def _address(request: Request, name: bytes, directory: Directory) -> _Address | None:
    by_header = _from_headers(request)
    by_host = _from_host(name, directory)
    if by_header and by_host and by_header != by_host:
        raise Refusal(400, "The routing headers and the Host header contradict each other")
    return by_header or by_host


def _unnamed(request: Request, directory: Directory) -> _Address | None:
    """The sandbox of a request whose host and routing headers name none."""
    return _from_credentials(request, directory) or _from_token(request, directory)


def _guard_sleep(request: Request, route: Route, target: Target) -> None:
    """Only who the agent would let in wakes a sandbox up: what it would refuse is refused here (C56).

    As the agent does: a token in the header is the only thing that counts, if there is one, and must be the only one; a signed link stands
    for it where the agent takes signed links, which is not the protocol of 2024.
    """
    if target.access_token is None:
        return
    tokens = [value for name, _, value in request.headers if name == b"x-access-token"]
    if tokens:
        accepted = len(tokens) == 1 and hmac.compare_digest(tokens[0], target.access_token.encode())
    else:
        accepted = route.port == ports.AGENT and opens(request.method, route.path, target.access_token)
    if not accepted:
        raise Refusal(401, "The sandbox is paused, and only its access token resumes it", sandbox_id=target.sandbox_id)


def guard(request: Request, route: Route) -> None:
    """Keep the public from what is the control plane's, and from ports made private. Raises: Refusal."""
    target = route.target
    if target is None:
        return
    path = route.path.partition(b"?")[0]
    if route.port == ports.RELAY or (route.port in AGENT_PORTS and is_reserved(path)):
        raise Refusal(404, "This path is reserved for the control plane", path=path[:_SHOWN].decode(errors="replace"))
    if route.port in AGENT_PORTS and target.state == "asleep":
        _guard_sleep(request, route, target)
    if route.port == ports.AGENT or target.traffic_token is None:
        return
    token = request.fields.get(b"e2b-traffic-access-token")
    header = "'e2b-traffic-access-token'"
    if token is None:
        raise Refusal(
            403,
            f"Sandbox is secured with traffic access token. Token header {header} is missing",
            title="Missing Traffic Access Token",
            sandbox_id=target.sandbox_id,
        )
    if not hmac.compare_digest(token, target.traffic_token.encode()):
        raise Refusal(
            403,
            f"Sandbox is secured with traffic access token. Provided token in header {header} is invalid",
            title="Invalid Traffic Access Token",
            sandbox_id=target.sandbox_id,
        )


def route(request: Request, directory: Directory, *, has_api: bool) -> Route:
    """Where `request` goes. Raises Refusal when it goes nowhere."""
    host = request.fields.get(b"host", b"")
    name = _split_host(host) if host else b""
    path = _origin_form(request, host)
    # The API's own name decides alone: clients 2.7 to 2.26 send routing headers with calls of the API.
    is_api = name.startswith(b"api.") or name == b"api"
    address = None if is_api else _address(request, name, directory)
    if address is None and not is_api:
        signed = find_signed(request.method, path, directory)
        address = _Address(signed.sandbox_id, ports.AGENT) if signed else _unnamed(request, directory)
    if address is None:
        if not has_api:
            raise Refusal(400, _INVALID_HOST)
        return Route(None, 0, path)
    target = directory.find(address.sandbox_id)
    if target is None:
        raise sandbox_not_found(address.sandbox_id, directory.why_gone(address.sandbox_id))
    found = Route(target, address.port, path)
    guard(request, found)
    return found
