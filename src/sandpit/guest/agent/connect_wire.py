"""The Connect protocol's messages on the wire: JSON bodies, envelopes, errors (current-protocol 4.1-4.5)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandpit.protocol.connect import COMPRESSED, END_STREAM, STREAM_TYPE, Frames, FrameTooLarge, frame

if TYPE_CHECKING:
    from starlette.types import Receive, Send

Message = dict[str, Any]
"""In proto3's JSON mapping; `fields` reads them."""

MAX_MESSAGE_BYTES = 64 << 20


class ConnectError(Exception):
    """An answer with a Connect error code (a key of HTTP_STATUS) and a text for the client's user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


# Requests


async def read_body(receive: Receive) -> bytes:
    """The whole request. Raises: ConnectError (too large, or the client went away)."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size > MAX_MESSAGE_BYTES:
            raise ConnectError("resource_exhausted", f"the message is larger than {MAX_MESSAGE_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def _chunks(receive: Receive) -> AsyncGenerator[bytes, None]:
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectError("canceled", "the client went away before the message was complete")
        yield event.get("body", b"")
        more = event.get("more_body", False)


async def envelopes(receive: Receive) -> AsyncGenerator[Message, None]:
    """The messages of a client's stream, as they come. Raises: ConnectError."""
    frames = Frames(MAX_MESSAGE_BYTES)
    async for chunk in _chunks(receive):
        frames.feed(chunk)
        while (found := _take(frames)) is not None:
            yield _message(*found)
    if not frames.is_empty:
        raise ConnectError("invalid_argument", "the stream ended inside a message")


def _take(frames: Frames) -> tuple[int, bytes] | None:
    try:
        return frames.take()
    except FrameTooLarge:
        raise ConnectError("resource_exhausted", f"the message is larger than {MAX_MESSAGE_BYTES} bytes") from None


def single(body: bytes) -> Message:
    """The message of a body that is exactly one envelope. Raises: ConnectError."""
    frames = Frames(MAX_MESSAGE_BYTES)
    frames.feed(body)
    found = _take(frames)
    if found is None or not frames.is_empty:
        what = "the request is not exactly one message" if body else "the request holds no message"
        raise ConnectError("invalid_argument", what)
    return _message(*found)


def _message(flags: int, payload: bytes) -> Message:
    if flags & COMPRESSED:
        raise ConnectError("unimplemented", "compressed messages are not supported; send them with identity encoding")
    if flags:
        raise ConnectError("invalid_argument", "the request is not exactly one message")
    return decode(payload)


def decode(payload: bytes) -> Message:
    """Raises: ConnectError."""
    try:
        message = json.loads(payload or b"{}")
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        raise ConnectError("invalid_argument", "the message is not valid JSON") from None
    except RecursionError:
        raise ConnectError("invalid_argument", "the message is nested too deeply") from None
    if not isinstance(message, dict):
        raise ConnectError("invalid_argument", "the message is not a JSON object")
    return message


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def error_json(error: ConnectError) -> bytes:
    return encode({"code": error.code, "message": error.message})


# Answers


@dataclass(slots=True)
class StreamAnswer:
    """A stream of messages. Its head goes out with the first of them, in one packet: each one wakes edge and client."""

    send: Send
    started: bool = False

    async def put(self, payload: bytes) -> None:
        """Send one message, which is JSON already."""
        await self._start()
        body = frame(payload)
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, error: ConnectError | None = None) -> None:
        """Finish the stream."""
        await self._start()
        end: Message = {"error": {"code": error.code, "message": error.message}, "metadata": {}} if error else {}
        payload = encode(end)
        body = frame(payload, END_STREAM)
        await self.send({"type": "http.response.body", "body": body})

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            headers = [(b"content-type", STREAM_TYPE.encode())]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})


async def refuse_media_type(send: Send, wanted: str) -> None:
    error = ConnectError("unknown", f"unsupported content type: send {wanted}")
    await respond(send, 415, "application/json", error_json(error))


async def respond(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
