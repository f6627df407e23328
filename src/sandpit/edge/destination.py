"""What follows from where a request goes: the connection it needs, and the words when that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .refusals import Refusal, broken_answer, port_closed, sandbox_not_found
from .routing import AGENT_PORTS
from .upstream import Key

if TYPE_CHECKING:
    from sandpit.contract.directory import Directory

    from .routing import Route
    from .wire import Request


def key_for(route: Route, api_backend: tuple[str, int] | None) -> Key:
    """The kind of connection that `route` needs."""
    target, port = route.target, route.port
    if target is None:
        assert api_backend is not None
        return Key("", *api_backend)
    is_agent = port in AGENT_PORTS
    return Key(target.sandbox_id, target.address, port, not is_agent and port in target.https_ports, not is_agent)


def allowed_upgrade(request: Request, route: Route) -> bytes:
    """The protocol to ask the server for, empty for none.

    The agent speaks websocket only; HTTP/2 in disguise would carry requests past the edge to any path.
    """
    wanted = request.upgrade
    if b"h2c" in wanted or (route.port in AGENT_PORTS and wanted != b"websocket"):
        return b""
    return wanted


def unreachable(route: Route, directory: Directory) -> Refusal:
    """Nothing accepted the connection."""
    if route.target is None:
        return Refusal(502, "The API cannot be reached")
    sandbox_id = route.target.sandbox_id
    found = directory.find(sandbox_id)
    if found is None or found.state != "running":
        return sandbox_not_found(sandbox_id, directory.why_gone(sandbox_id))
    return port_closed(sandbox_id, route.port)


def broken(route: Route, directory: Directory, what: str) -> Refusal:
    """The server `what` (a predicate)."""
    if route.target is None:
        return Refusal(502, f"The API {what}")
    sandbox_id = route.target.sandbox_id
    found = directory.find(sandbox_id)
    if found is None or found.state != "running":
        return sandbox_not_found(sandbox_id, directory.why_gone(sandbox_id))
    return broken_answer(sandbox_id, route.port, what)
