"""Reading fields of messages in proto3's JSON mapping (current-protocol 4.4).

A field may be spelled in lowerCamelCase or snake_case, null means unset, unknown fields are ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, TypeVar

from sandpit.guest.agent.connect_wire import ConnectError, Message

T = TypeVar("T")


def optional(message: Message, name: str, kind: type[T]) -> T | None:
    """The field `name` (lowerCamelCase), None when unset. Raises: ConnectError invalid_argument for another type."""
    value: Any = message.get(name)
    if value is None:
        value = message.get(re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name))
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConnectError("invalid_argument", f"field {name} is not of type {kind.__name__}")
    return value


def text(message: Message, name: str) -> str:
    """A string field, empty when unset."""
    return optional(message, name, str) or ""


def flag(message: Message, name: str) -> bool:
    """A bool field, false when unset."""
    return optional(message, name, bool) or False


def uint32(message: Message, name: str) -> int | None:
    """An unsigned number, which proto3 JSON lets be a string too; None when unset."""
    value: object = optional(message, name, object)
    if value is None:
        return None
    if isinstance(value, str) and len(value) <= 10 and value.isascii() and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        raise ConnectError("invalid_argument", f"field {name} is not an unsigned 32-bit number")
    return value


def data(message: Message, name: str) -> bytes | None:
    """A bytes field: base64, standard or URL-safe, padded or not; None when unset."""
    value = optional(message, name, str)
    if value is None:
        return None
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConnectError("invalid_argument", f"field {name} is not base64") from None
