"""Reading what an agent says of its sandbox. Code in the sandbox may be who answers: form and size are checked, and no byte of it
can move the cursor of a terminal that it is shown in.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sandpit.contract.node import GuestEvent

LEVELS = frozenset({"debug", "info", "warn", "error"})
LOGGERS = frozenset({"process", "terminal", "filesystem", "network", "agent"})
"""Not `sandbox`: what the server itself says about a sandbox cannot be forged in it."""
MAX_EVENTS = 500
MAX_FIELDS = 12
MAX_NAME = 32
MAX_TEXT = 1100
_FUTURE_SECONDS = 2.0
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def parse(body: bytes, after: int, now: float) -> list[GuestEvent]:
    """The events that are well formed, in order, all after the position `after`; `now` is in Unix seconds."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return []
    found = answer.get("events") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        return []
    latest = int((now + _FUTURE_SECONDS) * 1_000_000)
    events = []
    for given in found[:MAX_EVENTS]:
        event = _event(given)
        if event is not None and after < event.position <= latest:
            events.append(event)
            after = event.position
    return events


def _event(given: Any) -> GuestEvent | None:
    if not isinstance(given, dict):
        return None
    position, level, logger, message = (given.get(name) for name in ("position", "level", "logger", "message"))
    if type(position) is not int or not isinstance(message, str):
        return None
    if not isinstance(level, str) or not isinstance(logger, str) or level not in LEVELS or logger not in LOGGERS:
        return None
    fields = given.get("fields")
    pairs = list(fields.items())[:MAX_FIELDS] if isinstance(fields, dict) else []
    shown = {clean(name)[:MAX_NAME]: _value(value) for name, value in pairs}
    return GuestEvent(position, level, logger, clean(message), shown)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return clean(value)
    return str(value)[:MAX_TEXT] if isinstance(value, int | float) else ""


def clean(text: str) -> str:
    """Text that every store takes and every terminal shows as what it is: control characters become escapes."""
    encodable = text[:MAX_TEXT].encode("utf-8", "replace").decode()
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", encodable)
