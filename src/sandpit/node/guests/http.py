"""One bounded HTTP call to a server in a sandbox: the only way in which this process reads from a guest.

Code in the sandbox may be who answers. So a call has a limit in bytes and in total time, both without a default. Its head is bounded in
size and in fields; nothing is decompressed, no redirect followed, no cookie kept, no interim answer taken. It has a connection of its
own, which ends with it. Whatever else than a plain answer comes back is an AgentUnavailable.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET

import httptools

from sandpit.contract.errors import NodeError

CONNECT_SECONDS = 5.0
HEAD_BYTES = 16 << 10
HEAD_FIELDS = 64
_READ_BYTES = 64 << 10
_FRAMING_BYTES = 64 << 10
"""What an answer may spend on its head and the framing of chunks, beyond as many bytes as its body may have."""
_RESET = struct.pack("ii", 1, 0)
"""Linger for no time (socket(7))."""
_BODILESS = frozenset({204, 304})
_FRAMING = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class AgentUnavailable(NodeError):
    """The agent of a sandbox does not answer as it should."""


class _Refused(Exception):
    """What is wrong with an answer."""


@dataclass(slots=True)
class _Parser:
    """Collects what httptools reports of one answer; what follows it is not looked at."""

    pieces: list[bytes] = field(default_factory=list)
    status: int = 0
    """0 until the head is complete."""
    complete: bool = False
    _fields: int = 0
    _framing: dict[bytes, bytes] = field(default_factory=dict)
    _fault: _Refused | None = None
    _http: httptools.HttpResponseParser = field(init=False)

    def __post_init__(self) -> None:
        self._http = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises: _Refused."""
        try:
            self._http.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise self._fault or _Refused(f"is no HTTP: {str(error)[:200]}") from None

    def on_message_begin(self) -> None:
        if self.complete:
            self._refuse("is followed by another")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        name = name.lower()
        if self._fields > HEAD_FIELDS or name in self._framing:
            self._refuse(f"has more than {HEAD_FIELDS} header fields, or one of its framing twice")
        if name in _FRAMING:
            self._framing[name] = value.lower()

    def on_headers_complete(self) -> None:
        status = self._http.get_status_code()
        if not 200 <= status < 600:
            self._refuse(f"has the status {status}")
        if self._framing.get(b"content-encoding", b"identity") != b"identity":
            self._refuse("is compressed")
        coding, length = self._framing.get(b"transfer-encoding"), self._framing.get(b"content-length")
        if coding not in (None, b"chunked") or (coding is None and length is None and status not in _BODILESS):
            self._refuse("does not say where it ends")
        self.status = status

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    def _refuse(self, why: str) -> None:
        self._fault = _Refused(why)
        raise self._fault


class Answer:
    """An answer whose head has come."""

    def __init__(self, reader: asyncio.StreamReader, what: str, limit: int) -> None:
        """`what` is answered, with a body of at most `limit` bytes."""
        self._reader = reader
        self._what = what
        self._limit = limit
        self._parser = _Parser()
        self._came = 0
        self._body = 0

    @property
    def status(self) -> int:
        """200 to 599."""
        return self._parser.status

    async def head(self) -> None:
        """Read until the head is complete. Raises: AgentUnavailable."""
        while not self.status:
            if self._came >= HEAD_BYTES:
                raise self._refused(f"has a head of more than {HEAD_BYTES} bytes")
            await self._read(HEAD_BYTES - self._came)

    async def pieces(self, silence: float | None = None) -> AsyncIterator[bytes]:
        """The body as it comes, without a pause of more than `silence` seconds. Raises: AgentUnavailable."""
        parser = self._parser
        while True:
            pieces, parser.pieces = parser.pieces, []
            for piece in pieces:
                self._body += len(piece)
                if self._body > self._limit:
                    raise self._refused(f"has more than {self._limit} bytes")
                yield piece
            if parser.complete:
                return
            await self._read(_READ_BYTES, silence)

    async def read(self) -> bytes:
        """All of the body. Raises: AgentUnavailable."""
        return b"".join([piece async for piece in self.pieces()])

    async def _read(self, most: int, silence: float | None = None) -> None:
        try:
            async with asyncio.timeout(silence):
                data = await self._reader.read(most)
        except OSError as error:  # TimeoutError is one
            raise self._refused(f"breaks off: {error!r}") from error
        if not data:
            raise self._refused("is cut short")
        self._came += len(data)
        if self._came > 2 * self._limit + HEAD_BYTES + _FRAMING_BYTES:
            raise self._refused("is more framing than content")
        try:
            self._parser.feed(data)
        except _Refused as error:
            raise self._refused(str(error)) from None

    def _refused(self, why: str) -> AgentUnavailable:
        return AgentUnavailable(f"the agent's answer to {self._what} {why}")


class GuestHttp:
    """Calls to one server in a sandbox. Owns the connections of those under way: close it."""

    def __init__(self, address: str, port: int, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go with every call. Nothing is sent."""
        self._address = address
        self._port = port
        own = {"Host": f"{address}:{port}", "Accept-Encoding": "identity", "Connection": "close"}
        self._headers = {**own, **(headers or {})}
        self._open: set[asyncio.StreamWriter] = set()
        self._closed = False

    def hang_up(self) -> None:
        """Cut the connections of the calls under way, which fail."""
        for writer in self._open:
            _cut(writer)

    def close(self) -> None:
        """Cut them, and let no other call begin."""
        self._closed = True
        self.hang_up()

    @asynccontextmanager
    async def call(
        self, method: str, target: str, *, seconds: float, limit: int, connect: float = CONNECT_SECONDS,
        headers: Mapping[str, str] | None = None, content: bytes | AsyncIterator[bytes] = b"",
    ) -> AsyncIterator[Answer]:  # fmt: skip
        """Send a request and give its answer, of at most `limit` bytes; all of it, the block included, takes at most `seconds`.

        Raises: AgentUnavailable, and what reading `content` raises.
        """
        what = f"{method} {target.partition('?')[0]}"
        try:
            async with asyncio.timeout(seconds) as deadline, self._connection(what, connect) as (reader, writer):
                await _send(writer, method, target, {**self._headers, **(headers or {})}, content)
                answer = Answer(reader, what, limit)
                await answer.head()
                yield answer
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise AgentUnavailable(f"the agent did not answer {what} within {seconds:g} s") from error

    @asynccontextmanager
    async def _connection(
        self, what: str, seconds: float
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._closed:
            raise AgentUnavailable(f"{what} comes too late: the sandbox has ended")
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(self._address, self._port, limit=_READ_BYTES)
        except OSError as error:
            raise AgentUnavailable(f"the agent cannot be reached for {what}: {error!r}") from error
        self._open.add(writer)
        try:
            yield reader, writer
        finally:
            self._open.discard(writer)
            _cut(writer)


def _cut(writer: asyncio.StreamWriter) -> None:
    """End a connection at once: no waiting until a guest has read all of a request, and nothing kept by the kernel for minutes."""
    if (socket := writer.get_extra_info("socket")) is not None and socket.fileno() >= 0:
        with suppress(OSError):
            socket.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
    writer.transport.abort()


async def _send(
    writer: asyncio.StreamWriter,
    method: str,
    target: str,
    headers: Mapping[str, str],
    content: bytes | AsyncIterator[bytes],
) -> None:
    """Send a request; a guest that stops reading may have answered already. Raises: what reading `content` raises."""
    whole = content if isinstance(content, bytes) else None
    framing = "Transfer-Encoding: chunked" if whole is None else f"Content-Length: {len(whole)}"
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), framing, "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + (whole or b""))
    with suppress(_WriteFailed):
        await _drain(writer)
        if not isinstance(content, bytes):
            async for chunk in content:
                if chunk:
                    writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                    await _drain(writer)
            writer.write(b"0\r\n\r\n")
            await _drain(writer)


class _WriteFailed(Exception):
    """The guest takes no more of a request."""


async def _drain(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except OSError as error:
        raise _WriteFailed from error
