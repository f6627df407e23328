"""The Connect protocol's messages on the wire: JSON bodies, envelopes, errors (current-protocol 4.1-4.5)."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Send

Message = dict[str, Any]
"""In proto3's JSON mapping; `fields` reads them."""

MAX_MESSAGE_BYTES = 64 << 20
_ENVELOPE = struct.Struct(">BI")
_COMPRESSED = 0x01
_END_STREAM = 0x02
STREAM_TYPE = "application/connect+json"

HTTP_STATUS = {
    "canceled": 499,
    "unknown": 500,
    "invalid_argument": 400,
    "deadline_exceeded": 504,
    "not_found": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "failed_precondition": 400,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "data_loss": 500,
    "unauthenticated": 401,
}


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
    buffer = bytearray()
    async for chunk in _chunks(receive):
        buffer += chunk
        while (end := _envelope_end(buffer)) is not None:
            message = single(bytes(buffer[:end]))
            del buffer[:end]
            yield message
    if buffer:
        raise ConnectError("invalid_argument", "the stream ended inside a message")


def _envelope_end(buffer: bytearray) -> int | None:
    """Where the first envelope ends; None while it is incomplete."""
    if len(buffer) < _ENVELOPE.size:
        return None
    length: int = _ENVELOPE.unpack_from(buffer)[1]
    if length > MAX_MESSAGE_BYTES:
        raise ConnectError("resource_exhausted", f"the message is larger than {MAX_MESSAGE_BYTES} bytes")
    end = _ENVELOPE.size + length
    return end if len(buffer) >= end else None


def single(body: bytes) -> Message:
    """The message of a body that is exactly one envelope. Raises: ConnectError."""
    if len(body) < _ENVELOPE.size:
        raise ConnectError("invalid_argument", "the request holds no message")
    flags, length = _ENVELOPE.unpack_from(body)
    if flags & _COMPRESSED:
        raise ConnectError("unimplemented", "compressed messages are not supported; send them with identity encoding")
    if flags or len(body) != _ENVELOPE.size + length:
        raise ConnectError("invalid_argument", "the request is not exactly one message")
    return decode(body[_ENVELOPE.size :])


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
        body = _ENVELOPE.pack(0, len(payload)) + payload
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, error: ConnectError | None = None) -> None:
        """Finish the stream."""
        await self._start()
        end: Message = {"error": {"code": error.code, "message": error.message}, "metadata": {}} if error else {}
        payload = encode(end)
        body = _ENVELOPE.pack(_END_STREAM, len(payload)) + payload
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
