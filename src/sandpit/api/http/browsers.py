"""Without authentication, nothing keeps a web page in the operator's browser from calling the API but this.

A browser sends a page's requests to any address that its user can reach, this machine's included. With keys that is harmless: the page
has none. Without them, no page may call, whatever its origin: pages of sandboxes have origins on this machine, too. So a request is
refused that

* names a host that is none of this server's (a name that its owner lets point here: DNS rebinding),
* says that a page sent it: an Origin header, or Sec-Fetch-Site, which browsers send to addresses of this machine (Fetch Metadata).
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from sandpit.api.http.routes import error_response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


class NoWebPages:
    """Middleware that answers 403 to what a web page may have sent."""

    def __init__(self, app: ASGIApp, domain: str) -> None:
        """`domain` (with or without a port) and what is below it are names of this server, beside those of this machine."""
        self._app = app
        self._domain = domain.partition(":")[0].lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := self._reason(scope)) is not None:
            message = (
                f"{reason}: this server asks for no key, so web pages may not use it. Turn authentication on for that."
            )
            await error_response(403, message)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _reason(self, scope: Scope) -> str | None:
        if any(True for _ in _values(scope, b"origin")):
            return "the request is a web page's (Origin)"
        if any(value.strip().lower() != "none" for value in _values(scope, b"sec-fetch-site")):
            return "the request is a web page's (Sec-Fetch-Site)"
        if not all(self._is_ours(value.strip().lower()) for value in _values(scope, b"host")):
            return "the Host header names another server"
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").removesuffix(".")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return any(name == own or name.endswith(f".{own}") for own in ("localhost", self._domain))


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    return (value.decode("latin-1") for key, value in scope["headers"] if key == name)
