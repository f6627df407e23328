"""GET /files: files, ranges, conditions, gzip, and pseudo files of unknown size (current-protocol 7.1)."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
import zlib
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import quote

from sandpit.guest.agent.files.conditions import Range, accepts, not_modified, precondition_failed, wanted_range
from sandpit.guest.agent.files.error import FileError, from_os, missing, not_a_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import Headers
    from starlette.types import Receive, Send

# Large enough that switching threads costs little, small enough to stay in the processor's cache.
CHUNK = 512 << 10
_GZIP = 16 + zlib.MAX_WBITS
# The sandbox's link is fast and its processor is not.
_GZIP_LEVEL = 1

mimetypes.init([])  # the built-in table only: the image's own could be anything


class TruncatedFileError(Exception):
    """A file shrank during its download."""


@dataclass(slots=True)
class _Source:
    """A file that is open for reading. `size` is None when only reading tells it."""

    path: str
    descriptor: int
    modified_ns: int
    size: int | None
    head: bytes
    """The file's first bytes: all of it when it is small or its size is unknown and this was less than a chunk."""

    @property
    def etag(self) -> str:
        return f'"{self.modified_ns:x}-{self.size:x}"'


async def send_file(path: str, headers: Headers, receive: Receive, send: Send, *, head: bool) -> None:
    """Answer with the file at `path`. Raises: FileError, before anything was sent."""
    source = await asyncio.to_thread(_open, path)
    try:
        await _send(source, headers, receive, send, head=head)
    finally:
        os.close(source.descriptor)


async def _send(source: _Source, headers: Headers, receive: Receive, send: Send, *, head: bool) -> None:
    compress, conditional = _negotiate(headers)
    answer = _headers(source)
    if source.size is not None and not compress:
        answer += [
            (b"accept-ranges", b"bytes"),
            (b"etag", source.etag.encode()),
            (b"last-modified", formatdate(source.modified_ns // 10**9, usegmt=True).encode()),
        ]
    part = None
    if conditional and source.size is not None:
        modified = source.modified_ns // 10**9
        if precondition_failed(headers, source.etag, modified):
            raise FileError(412, "the file is not the one that the request is about")
        if not_modified(headers, source.etag, modified):
            await send({"type": "http.response.start", "status": 304, "headers": answer[2:]})
            await send({"type": "http.response.body", "body": b""})
            return
        part = wanted_range(headers, source.size, source.etag, modified)
    if part is not None:
        answer.append((b"content-range", f"bytes {part.start}-{part.stop - 1}/{source.size}".encode()))
    whole = part or (None if source.size is None else Range(0, source.size))
    if compress:
        answer.append((b"content-encoding", b"gzip"))
    elif whole is not None:
        answer.append((b"content-length", b"%d" % (whole.stop - whole.start)))
    await send({"type": "http.response.start", "status": 206 if part else 200, "headers": answer})
    if head:
        await send({"type": "http.response.body", "body": b""})
        return
    read = _reader(source, whole)
    await _stream(_compressed(read) if compress else read, receive, send)


async def _stream(read: Callable[[], bytes], receive: Receive, send: Send) -> None:
    """Send what `read` gives until it gives nothing; the next piece is read while one is sent."""
    gone = asyncio.ensure_future(_disconnected(receive))
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, read)
    try:
        while (chunk := await reading) and not gone.done():
            reading = loop.run_in_executor(None, read)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        gone.cancel()
        # The descriptor is closed after this: no thread may still use it.
        await asyncio.wait([reading])
        reading.exception()
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _open(path: str) -> _Source:
    """Open a regular file without being blocked or led astray by anything else. Raises: FileError."""
    try:
        _check(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise missing(path) from None
    except OSError as error:
        raise from_os(error, path, "opening") from None
    try:
        status = os.fstat(descriptor)
        _check(path, status)  # again: the path may lead elsewhere by now
        # Files of /proc have size 0 whatever is in them, those of /sys a page's: what can be read at once is believed.
        head = _read_fully(descriptor, min(status.st_size or CHUNK, CHUNK))
        size = status.st_size if status.st_size > CHUNK else len(head)
        return _Source(path, descriptor, status.st_mtime_ns, None if not status.st_size and head else size, head)
    except OSError as error:
        os.close(descriptor)
        raise FileError(400, f"path '{path}' cannot be read: {error.strerror}") from None
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise not_a_file(path, directory=stat.S_ISDIR(status.st_mode))


def _read_fully(descriptor: int, length: int) -> bytes:
    pieces = []
    while length and (piece := os.read(descriptor, length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces) if len(pieces) != 1 else pieces[0]


def _reader(source: _Source, part: Range | None) -> Callable[[], bytes]:
    """A function that gives the next piece, nothing at the end. `part` None reads until the file ends."""
    head = source.head if part is None else source.head[part.start : part.stop]
    position = len(source.head) if part is None or part.start <= len(source.head) else part.start
    end = None if part is None else part.stop
    pending = [head] if head else []
    if position != len(source.head):
        os.lseek(source.descriptor, position, os.SEEK_SET)

    def read() -> bytes:
        nonlocal position
        if pending:
            return pending.pop()
        length = CHUNK if end is None else min(CHUNK, end - position)
        if length <= 0:
            return b""
        piece = os.read(source.descriptor, length)
        if not piece and end is not None:
            # The promised length cannot be kept: only a broken connection tells the client.
            raise TruncatedFileError(f"'{source.path}' became shorter while it was being sent")
        position += len(piece)
        return piece

    return read


def _compressed(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """The same as gzip."""
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP)
    ended = False

    def compressed() -> bytes:
        nonlocal ended
        while not ended:
            piece = read()
            ended = not piece
            packed = compressor.compress(piece) if piece else compressor.flush()
            if packed:
                return packed
        return b""

    return compressed


def _negotiate(headers: Headers) -> tuple[bool, bool]:
    """Whether to compress, and whether ranges and conditions apply. Raises: FileError 406.

    Compression is for those who ask for gzip and nothing else, as the clients' `gzip` option does: what HTTP libraries
    list on their own (`gzip, deflate, br`) allows identity, and sending as it is beats compressing on a fast link.
    """
    names = ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
    conditional = any(name in headers for name in names)
    accepted = accepts(headers.get("accept-encoding"))
    if conditional:
        if not accepted.identity:
            raise FileError(406, "ranges and conditional requests need 'identity' in Accept-Encoding")
        return False, True
    if not accepted.identity and not accepted.gzip:
        raise FileError(406, "no acceptable encoding: ask for 'identity' or 'gzip' in Accept-Encoding")
    return accepted.gzip and (accepted.gzip_only or not accepted.identity), False


def _headers(source: _Source) -> list[tuple[bytes, bytes]]:
    name = os.path.basename(source.path)
    kind, encoding = mimetypes.guess_type(name)
    kind = "application/octet-stream" if kind is None or encoding else kind
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    return [
        (b"content-type", kind.encode()),
        (b"content-disposition", _disposition(name)),
        (b"vary", b"accept-encoding"),
    ]


def _disposition(name: str) -> bytes:
    """RFC 6266: a plain token as it is, anything else percent-encoded."""
    raw = os.fsencode(name)
    if raw.isascii() and raw.decode().replace(".", "").replace("-", "").replace("_", "").isalnum():
        return b"inline; filename=" + raw
    return b"inline; filename*=utf-8''" + quote(raw, safe="").encode()
