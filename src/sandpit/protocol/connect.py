"""The Connect protocol's framing (current-protocol 4.3): a stream is a sequence of frames, each with flags and a length."""

from __future__ import annotations

import struct

STREAM_TYPE = "application/connect+json"
COMPRESSED = 0x01
END_STREAM = 0x02
"""The last frame, which says how the stream ended."""
_HEAD = struct.Struct(">BI")
HEAD_BYTES = _HEAD.size

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
"""Status of an answer that is one error, by its code."""


class FrameTooLarge(ValueError):
    """A frame is longer than its reader takes."""

    def __init__(self, length: int, limit: int) -> None:
        """Both in bytes."""
        super().__init__(f"the message has {length} bytes, more than {limit}")
        self.length = length


def frame(payload: bytes, flags: int = 0) -> bytes:
    """One frame."""
    return _HEAD.pack(flags, len(payload)) + payload


class Frames:
    """Frames of a stream, from its bytes as they come."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of one payload."""
        self._limit = limit
        self._held = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take more bytes of the stream."""
        self._held += chunk

    def take(self) -> tuple[int, bytes] | None:
        """Flags and payload of the next frame; None while it is incomplete. Raises: FrameTooLarge, before its bytes are there."""
        if len(self._held) < HEAD_BYTES:
            return None
        flags, length = _HEAD.unpack_from(self._held)
        if length > self._limit:
            raise FrameTooLarge(length, self._limit)
        end = HEAD_BYTES + length
        if len(self._held) < end:
            return None
        payload = bytes(memoryview(self._held)[HEAD_BYTES:end])
        del self._held[:end]
        return flags, payload

    @property
    def is_empty(self) -> bool:
        """Whether the stream could end here."""
        return not self._held
