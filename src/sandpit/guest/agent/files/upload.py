"""POST /files: bodies stream to disk with flat memory (current-protocol 7.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from python_multipart.multipart import parse_options_header

from sandpit.guest.agent.files import metadata
from sandpit.guest.agent.files.error import FileError
from sandpit.guest.agent.files.sinks import GunzipSink, Item, MultipartSink, RawSink, Sink
from sandpit.guest.agent.files.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import Headers
    from starlette.types import Message, Receive

    from sandpit.guest.agent.accounts import Account

BATCH = 512 << 10
"""Bytes collected before a thread writes them, while the next are being received."""
IDLE_S = 300.0
"""A client that sends nothing for so long is given up: streamed uploads have no deadline of their own."""


async def receive_files(
    path: str | None, account: Account, headers: Headers, receive: Receive, resolve: Callable[[str], str]
) -> list[Item] | None:
    """Store an upload; returns the answer, None when the client left. `resolve` makes a part's file name a path.

    Raises: FileError.
    """
    try:
        user_metadata = metadata.from_headers(headers.raw)
    except metadata.InvalidMetadataError as error:
        raise FileError(400, str(error)) from None
    compressed = _compressed(headers)
    expected = 0 if compressed else _content_length(headers)

    def open_target(given: str) -> Target:
        nonlocal expected
        # The length is that of the whole request: it says nothing about the files after the first.
        expected, fitting = 0, expected
        return Target.open(given, account, user_metadata, fitting)

    sink = await asyncio.to_thread(_sink, headers, path, open_target, resolve)
    if compressed:
        sink = GunzipSink(sink)
    finished = False
    try:
        if not await pump(receive, sink):
            return None
        items = await asyncio.to_thread(sink.finish)
        finished = True
        return items
    finally:
        if not finished:
            await asyncio.shield(asyncio.to_thread(sink.abort))


def _sink(
    headers: Headers, path: str | None, open_target: Callable[[str], Target], resolve: Callable[[str], str]
) -> Sink:
    kind, options = parse_options_header(headers.get("content-type"))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary")
        if not boundary:
            raise FileError(400, "the Content-Type header names no multipart boundary")
        return MultipartSink(boundary, path, resolve, open_target)
    if kind != b"application/octet-stream":
        raise FileError(
            400,
            f"unsupported content type '{headers.get('content-type', '')}': send multipart/form-data or "
            "application/octet-stream",
        )
    if path is None:
        raise FileError(400, "an application/octet-stream upload needs the 'path' query parameter")
    return RawSink(open_target(path))


async def pump(receive: Receive, sink: Sink) -> bool:
    """Feed the body to the sink; False when the client left before its end."""
    writer = _Writer(sink)
    try:
        more = True
        while more:
            event = await _next(receive)
            if event["type"] == "http.disconnect":
                return False
            await writer.put(event.get("body", b""))
            more = event.get("more_body", False)
        await writer.flush()
    finally:
        await writer.settle()
    return True


async def _next(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(IDLE_S):
            return await receive()
    except TimeoutError:
        raise FileError(408, f"nothing was received for {IDLE_S:.0f} seconds") from None


class _Writer:
    """Feeds a sink in a thread, one batch at a time, while the next batch is collected."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def put(self, chunk: bytes) -> None:
        """Take a piece. Raises: FileError, also for an earlier piece."""
        self._batch.append(chunk)
        self._size += len(chunk)
        if self._size >= BATCH:
            await self._wait()
            self._start()

    async def flush(self) -> None:
        """Wait until all is written. Raises: FileError."""
        await self._wait()
        self._start()
        await self._wait()

    async def settle(self) -> None:
        """Wait until no thread uses the sink any more."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()

    def _start(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(None, _feed, self._sink, batch)

    async def _wait(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)


def _feed(sink: Sink, batch: list[bytes]) -> None:
    for chunk in batch:
        if chunk:
            sink.feed(chunk)


def _compressed(headers: Headers) -> bool:
    """Whether the body is gzip. Raises: FileError 400 for another coding."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip"):
        raise FileError(400, f"unsupported Content-Encoding '{coding}': send gzip or identity")
    return coding == "gzip"


def _content_length(headers: Headers) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() else 0
