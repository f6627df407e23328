"""A server's answer on its way to the client: its heads, and its body in a framing that the client understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .body import ChunkedBody, EndlessBody
from .headers import response_head
from .wire import WireError, find_head_end, parse_response

if TYPE_CHECKING:
    from .wire import Request, Response

_HEAD_BYTES = 256 * 1024
_MAX_INTERIM = 32
SWITCHING_PROTOCOLS = 101


class AnswerHeads:
    """Collects bytes until heads are complete: interim ones (RFC 9110, 15.2), then the answer's own."""

    __slots__ = ("_buffer", "_interims", "_searched")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0
        self._interims = 0

    @property
    def begun(self) -> bool:
        """Whether the server has sent anything."""
        return bool(self._buffer or self._interims)

    @property
    def rest(self) -> bytes:
        """What came behind the last head."""
        return self._buffer

    def feed(self, data: bytes) -> None:
        self._searched = len(self._buffer)
        self._buffer += data

    def next(self) -> Response | None:
        """The next head, None while it is incomplete. Raises: WireError."""
        end = find_head_end(self._buffer, self._searched, _HEAD_BYTES, loose=True)
        if not end:
            return None
        head, self._buffer, self._searched = self._buffer[:end], self._buffer[end:], 0
        response = parse_response(head)
        if response.status < 200 and response.status != SWITCHING_PROTOCOLS:
            self._interims += 1
            if self._interims > _MAX_INTERIM:
                raise WireError("too many interim answers")
        return response

    def take_rest(self) -> bytes:
        """What came behind the last head, handed over."""
        rest, self._buffer = self._buffer, b""
        return rest


class AnswerBody:
    """An answer's body. One without an end of its own is sent in chunks; HTTP/1.0 clients get chunks unpacked."""

    __slots__ = ("_body", "_chunked", "_http11", "_rechunk", "_response", "framed")

    def __init__(self, request: Request, response: Response) -> None:
        self._http11 = request.http11
        self._response = response
        self._body = response.body(request.method, decode=not self._http11)
        endless = isinstance(self._body, EndlessBody)
        self._rechunk = endless and self._http11
        self._chunked = self._http11 and (endless or isinstance(self._body, ChunkedBody))
        self.framed = self._chunked or self._body is None or b"content-length" in response.fields
        """Whether the client can tell the end of the body from the end of the connection."""

    @property
    def done(self) -> bool:
        return self._body is None or self._body.done

    def head(self, *, keep_alive: bool) -> bytes:
        return response_head(self._response, http11=self._http11, chunked=self._chunked, keep_alive=keep_alive)

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """What to send to the client for `data`, and how much of that belonged to the body. Raises: BodyError."""
        body = self._body
        assert body is not None
        end = body.feed(data)
        if self._rechunk:
            return b"%x\r\n%b\r\n" % (len(data), data), end
        if isinstance(body, ChunkedBody) and not self._http11:
            return b"".join(body.pieces), end
        return data if end == len(data) else data[:end], end

    @property
    def content_type(self) -> bytes:
        """Empty without one."""
        return self._response.fields.get(b"content-type", b"")

    def complete(self, words: bytes) -> bytes | None:
        """What ends the body for the client with `words` of ours; None where they could not be told from the server's last ones.

        The servers in sandboxes that have last words (`farewell`) send each message in chunks of its own.
        """
        if not (isinstance(self._body, ChunkedBody) and self._chunked and self._body.between):
            return None
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(words), words)

    def end(self) -> bytes | None:
        """The server closed the connection: what completes the body for the client, None if it is cut short."""
        if not isinstance(self._body, EndlessBody):
            return None
        return b"0\r\n\r\n" if self._rechunk else b""
