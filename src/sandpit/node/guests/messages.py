"""What guests say, as values of the expected types: JSON objects, and streams of Connect's messages (current-protocol 4.3).

A guest may say anything. Whatever is not as expected is an AgentUnavailable, never another exception.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from sandpit.node.guests.http import AgentUnavailable, Answer
from sandpit.node.guests.pace import Pace
from sandpit.protocol.connect import END_STREAM, Frames, FrameTooLarge

T = TypeVar("T")
FRAME_BYTES = 1 << 20
"""Of one message; the agent's are below 100 KiB."""
_REASON = 2000
"""Characters of an error."""
_SILENCE_SECONDS = 60.0
"""Without any message; the agent sends one every 10 s when nothing happens."""
_MESSAGES_PER_SECOND = 5_000.0
_BURST_MESSAGES = 20_000.0
_BYTES_OF_A_MESSAGE = 8192
_PARTS_OF_A_MESSAGE = 50
"""One that is larger, or has more JSON values, counts as several: reading 40 MB/s takes about a tenth of a processor."""


class CommandRefused(AgentUnavailable):
    """The agent does not do what it was asked for; it answers."""

    def __init__(self, what: str, error: dict[str, Any]) -> None:
        """`error` is Connect's: `code` and `message`."""
        code, message = (expect(error.get(name, ""), str)[:_REASON] for name in ("code", "message"))
        self.reason = f"{code or 'unknown'}: {message}"
        super().__init__(f"{what}: {self.reason}")


def read_object(body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object. Raises: AgentUnavailable."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:  # numbers of too many digits and broken UTF-8 are ValueErrors
        raise AgentUnavailable(f"what the agent says is not JSON: {str(error)[:200]}") from None
    return expect(found, dict)


def expect(value: object, kind: type[T]) -> T:
    """The value, if it is exactly of a type: true is no int. Raises: AgentUnavailable."""
    if type(value) is not kind:
        raise AgentUnavailable(f"what the agent says has {type(value).__name__} where {kind.__name__} should be")
    return value


def output(event: dict[str, Any]) -> list[tuple[str, bytes]]:
    """What a process has printed: names of streams and bytes. Raises: AgentUnavailable."""
    try:
        return [
            (name, base64.b64decode(expect(data, str)))
            for name, data in expect(event.get("data", {}), dict).items()
            if name in ("stdout", "stderr", "pty")
        ]
    except ValueError as error:
        raise AgentUnavailable(f"what the agent says is not base64: {error}") from None


def exit_code(event: dict[str, Any]) -> int | None:
    """The exit code with which a process ended; None when this event is another. Raises: AgentUnavailable."""
    return expect(expect(event["end"], dict).get("exitCode", 0), int) if "end" in event else None


async def events(answer: Answer, what: str) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream up to its end, no faster than this process has time for. Raises: AgentUnavailable, CommandRefused."""
    frames, pace = Frames(FRAME_BYTES), Pace(_MESSAGES_PER_SECOND, _BURST_MESSAGES)
    async for piece in answer.pieces(_SILENCE_SECONDS):
        frames.feed(piece)
        while (found := _take(frames)) is not None:
            flags, payload = found
            await pace.spend(1 + len(payload) / _BYTES_OF_A_MESSAGE + parts(payload) / _PARTS_OF_A_MESSAGE)
            message = read_object(payload)
            if flags & END_STREAM:
                if "error" in message:
                    raise CommandRefused(what, expect(message["error"], dict))
                return
            yield expect(message.get("event"), dict)


def _take(frames: Frames) -> tuple[int, bytes] | None:
    try:
        found = frames.take()
    except FrameTooLarge as error:
        raise AgentUnavailable(f"the agent sends a message of {error.length} bytes") from None
    if found is not None and found[0] not in (0, END_STREAM):
        raise AgentUnavailable(f"the agent sends a message with flags {found[0]}")
    return found


def parts(document: bytes | bytearray) -> int:
    """About how many values a JSON document has: what reading it costs."""
    return document.count(b",") + document.count(b"[") + document.count(b"{")
