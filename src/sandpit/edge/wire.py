"""Heads of HTTP/1 messages: strict parsing, and how long the body is (RFC 9112)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import httptools

from .body import Body, ChunkedBody, EndlessBody, SizedBody

if TYPE_CHECKING:
    from collections.abc import Iterable

_END = re.compile(rb"\r\n\r\n")
_LOOSE_END = re.compile(rb"\r?\n\r?\n")
# Bare CR or LF, a folded line, NUL: each is read differently by different servers, which is what smuggling lives on.
_AMBIGUOUS = re.compile(rb"\r(?!\n)|(?<!\r)\n|\n[ \t]|\0")
_DIGITS = re.compile(rb"[0-9]{1,18}")
# RFC 9112, 4; codes from 100 to 599 (RFC 9110, 15). Many servers leave out the space before an empty reason.
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r?\n")
_AMBIGUOUS_ANSWER = re.compile(rb"\r(?!\n)|\n[ \t]|\0")
_MAX_FIELDS = 500
"""Of one head: each costs some microseconds."""
_CACHED_BYTES = 128
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"e2b-sandbox-id", b"e2b-sandbox-port",
                   b"e2b-traffic-access-token"})  # fmt: skip


class WireError(Exception):
    """The peer's bytes are not the HTTP we accept; `status` is what a client is answered."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class _Sink:
    """Collects what httptools reports."""

    __slots__ = ("complete", "headers", "text")

    def __init__(self) -> None:
        self.text = b""
        self.complete = False
        self.headers: list[tuple[bytes, bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.text += url

    on_status = on_url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


@dataclass(slots=True)
class Head:
    """What requests and responses have in common. Header names come as (lower case, as sent, value)."""

    http11: bool
    headers: list[tuple[bytes, bytes, bytes]]
    fields: dict[bytes, bytes]
    """Lower-case name -> first value."""
    hops: frozenset[bytes]
    """The options of `Connection`, lower case: header names that end here, `close`, `keep-alive`, `upgrade`."""

    @property
    def keep_alive(self) -> bool:
        return b"close" not in self.hops if self.http11 else b"keep-alive" in self.hops


@dataclass(slots=True)
class Request(Head):
    method: bytes = b""
    target: bytes = b""
    upgrade: bytes = b""
    """Lower-case value of `Upgrade` when the client asks for it in `Connection`, else empty."""

    def body(self) -> Body | None:
        """A reader of this request's body; None when it has none."""
        if b"transfer-encoding" in self.fields:
            return ChunkedBody()
        size = int(self.fields.get(b"content-length", b"0"))
        return SizedBody(size) if size else None


@dataclass(slots=True)
class Response(Head):
    status: int = 0
    reason: bytes = b""

    def body(self, method: bytes, *, decode: bool) -> Body | None:
        """A reader of the body that answers `method`; None when it has none. `decode` takes chunks apart."""
        if method == b"HEAD" or self.status in {204, 304}:
            return None
        if b"transfer-encoding" in self.fields:
            return ChunkedBody(decode=decode)
        if b"content-length" in self.fields:
            size = int(self.fields[b"content-length"])
            return SizedBody(size) if size else None
        return EndlessBody()


def find_head_end(buffer: bytes | bytearray, start: int, limit: int, *, loose: bool = False) -> int:
    """Where the head in `buffer` ends, 0 when it is not complete; `start` is how much was searched before.

    `loose` lets bare line feeds pass (old servers). Raises WireError: head over `limit` bytes, or never to end.
    """
    match = (_LOOSE_END if loose else _END).search(buffer, max(0, start - 3))
    end = match.end() if match else 0
    if end > limit or (not end and len(buffer) > limit):
        raise WireError(f"Request header fields are larger than {limit} bytes", 431)
    if not end and not loose and b"\n\n" in buffer:
        raise WireError("Lines of the head must end in CR LF")
    return end


def _options(value: bytes) -> frozenset[bytes]:
    return _short_options(value) if len(value) <= _CACHED_BYTES else _split(value)


@lru_cache(maxsize=256)
def _short_options(value: bytes) -> frozenset[bytes]:
    return _split(value)


def _split(value: bytes) -> frozenset[bytes]:
    return frozenset(option.strip().lower() for option in value.split(b",") if option.strip())


def _index(headers: Iterable[tuple[bytes, bytes, bytes]]) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    fields: dict[bytes, bytes] = {}
    connection = b""
    for name, shown, value in headers:
        if name == b"connection":
            connection = connection + b"," + value if connection else value
        elif name in fields:
            if name in _ONCE:
                raise WireError(f"Header {shown.decode()} may be sent only once")
        else:
            fields[name] = value
    return fields, _options(connection)


def _check_framing(fields: dict[bytes, bytes], *, http11: bool) -> None:
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise WireError("Content-Length and Transfer-Encoding contradict each other")
        if coding.lower() != b"chunked" or not http11:
            raise WireError("Transfer-Encoding other than chunked over HTTP/1.1 is not supported", 501)
    if length is not None and not _DIGITS.fullmatch(length):
        raise WireError("Content-Length is not a number")


def _feed(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, sink: _Sink, head: bytes) -> None:
    if head.count(b"\n") > _MAX_FIELDS:
        raise WireError(f"Request header fields are more than {_MAX_FIELDS}", 431)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # how httptools says that other bytes may follow; whether they do is decided by the answer
    except httptools.HttpParserError as error:
        raise WireError(f"Malformed HTTP: {error}") from error
    if not sink.complete:
        raise WireError("Malformed HTTP: the head is incomplete")


def parse_request(head: bytes) -> Request:
    """The request whose complete head is `head`. Raises WireError for anything doubtful."""
    if _AMBIGUOUS.search(head):
        raise WireError("Malformed HTTP: control characters or folded lines in the head")
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    _feed(parser, sink, head)
    version, method = parser.get_http_version(), parser.get_method()
    if version not in {"1.1", "1.0"}:
        raise WireError(f"HTTP/{version} is not supported", 505)
    fields, hops = _index(sink.headers)
    http11 = version == "1.1"
    if b"host" not in fields and http11:
        raise WireError("Host header is missing")
    if method == b"CONNECT":
        raise WireError("CONNECT is not supported", 405)
    _check_framing(fields, http11=http11)
    upgrade = fields.get(b"upgrade", b"").strip().lower() if b"upgrade" in hops and http11 else b""
    return Request(http11, sink.headers, fields, hops, method, sink.text, upgrade)


def parse_response(head: bytes) -> Response:
    """The response whose complete head is `head`.

    Lines may end in a bare line feed, as in find_head_end. Raises WireError for anything else that is doubtful: an impossible
    status line, or a body whose length cannot be told for certain.
    """
    line = _STATUS.match(head)
    if line is None:
        raise WireError("impossible status line")
    if _AMBIGUOUS_ANSWER.search(head):
        raise WireError("control characters or folded lines in the head")
    sink = _Sink()
    parser = httptools.HttpResponseParser(sink)
    parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True)
    _feed(parser, sink, head)
    fields, hops = _index(sink.headers)
    http11 = parser.get_http_version() == "1.1"
    _check_framing(fields, http11=http11)
    return Response(http11, sink.headers, fields, hops, int(line[1]), sink.text)
