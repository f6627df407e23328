"""The edge's own answers: errors as JSON or, for people, as a page (current-protocol 1.7), readable across origins."""

from __future__ import annotations

import json
import re
from html import escape
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .wire import Request

_BROWSER = re.compile(rb"mozilla|chrome|safari|firefox|edge|opera|msie", re.IGNORECASE)
_CORS = (
    b"access-control-allow-origin: *\r\n"
    b"access-control-expose-headers: *\r\n"
)  # fmt: skip
_PREFLIGHT = (
    b"HTTP/1.1 204 No Content\r\n"
    b"access-control-allow-origin: *\r\n"
    b"access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    b"access-control-max-age: 0\r\n"
    b"vary: origin, access-control-request-headers\r\n"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:15vh auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em}}</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""


class Refusal(Exception):
    """A request that the edge answers itself."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        title: str | None = None,
        words: str | None = None,
        sandbox_id: str | None = None,
        port: int | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.title = title or HTTPStatus(status).phrase
        self.words = words or message
        """The message for people."""
        self.sandbox_id = sandbox_id
        self.port = port
        self.path = path

    def as_json(self) -> bytes:
        """The body for programs; members without a value are left out."""
        members = {
            "sandboxId": self.sandbox_id,
            "message": self.message,
            "port": self.port,
            "path": self.path,
            "code": self.status,
        }
        return json.dumps({name: value for name, value in members.items() if value is not None}).encode()

    def as_page(self) -> bytes:
        """The body for people."""
        parts = [f"{escape(self.words)}."]
        if self.sandbox_id is not None:
            parts.append(f"Sandbox <code>{escape(self.sandbox_id)}</code>.")
        if self.port is not None:
            parts.append(f"Port <code>{self.port}</code>.")
        return _PAGE.format(title=escape(self.title), text=" ".join(parts)).encode()


def sandbox_not_found(sandbox_id: str, why: str = "") -> Refusal:
    """`why` it ended, if it did so on its own. Clients look for the words "was not found"."""
    message = f"The sandbox ended: {why}. It was not found" if why else "The sandbox was not found"
    return Refusal(502, message, title="Sandbox Not Found", sandbox_id=sandbox_id)


def port_closed(sandbox_id: str, port: int) -> Refusal:
    return Refusal(
        502,
        "The sandbox is running but port is not open",
        title="Closed Port Error",
        words=f"The sandbox is running but there is no service running on port {port}: connection refused",
        sandbox_id=sandbox_id,
        port=port,
    )


def broken_answer(sandbox_id: str, port: int, what: str) -> Refusal:
    return Refusal(502, f"The server on port {port} {what}", sandbox_id=sandbox_id, port=port)


def _wants_page(request: Request | None) -> bool:
    if request is None or not _BROWSER.search(request.fields.get(b"user-agent", b"")):
        return False
    # A script in a browser has a browser's User-Agent too, but asks for data.
    return request.fields.get(b"sec-fetch-mode", b"navigate") == b"navigate"


def _is_preflight(request: Request | None) -> bool:
    return (
        request is not None
        and request.method == b"OPTIONS"
        and b"origin" in request.fields
        and b"access-control-request-method" in request.fields
    )


def render(refusal: Refusal, request: Request | None, *, close: bool) -> bytes:
    """The bytes that answer `request` (None when it could not even be parsed).

    A preflight succeeds always: only then does the browser send the request whose refusal a page can read.
    """
    connection = b"connection: close\r\n" if close else b"connection: keep-alive\r\n"
    if request is not None and _is_preflight(request):
        wanted = request.fields.get(b"access-control-request-headers", b"*")
        return _PREFLIGHT + b"access-control-allow-headers: " + wanted + b"\r\n" + connection + b"\r\n"
    page = _wants_page(request)
    body = refusal.as_page() if page else refusal.as_json()
    head = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n" % (
        refusal.status,
        HTTPStatus(refusal.status).phrase.encode(),
        b"text/html; charset=utf-8" if page else b"application/json; charset=utf-8",
        len(body),
    )
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        head += b"retry-after: 1\r\n"
    without_body = request is not None and request.method == b"HEAD"
    return head + _CORS + connection + b"\r\n" + (b"" if without_body else body)
