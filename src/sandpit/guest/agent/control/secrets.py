"""The secrets that prove the node and the edge: of each the agent keeps a digest, so that nothing in the sandbox has what it takes to call.

The node hands the first digests over on the agent's standard input, before any other process exists, and new ones with every `/init`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass, field
from typing import Any

HEADER = b"x-sandpit-control"
"""Of control calls; the edge takes it out of what clients send."""
_LINE = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{64})\n")
_LONGEST_LINE = 130
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ControlKeys:
    """SHA-256 digests of two random secrets of 256 bits: no secret can be guessed from them."""

    control: bytes = field(repr=False)
    relay: bytes = field(repr=False)

    def opens_control(self, secret: bytes) -> bool:
        """Whether `secret` comes from the node; compared in constant time."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.control)

    def opens_relay(self, secret: bytes) -> bool:
        """Whether `secret` comes from the edge; compared in constant time."""
        return hmac.compare_digest(hashlib.sha256(secret).digest(), self.relay)


def received_keys(descriptor: int = 0) -> ControlKeys | None:
    """What the node wrote for this process: one line, two digests in hexadecimal. None without: then every control call is refused."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LONGEST_LINE:
        try:
            chunk = os.read(descriptor, _LONGEST_LINE - len(line))
        except OSError:  # it may be closed
            return None
        if not chunk:
            return None
        line += chunk
    match = _LINE.fullmatch(line)
    return ControlKeys(bytes.fromhex(match[1].decode()), bytes.fromhex(match[2].decode())) if match else None


def keys_of(message: Any) -> ControlKeys:
    """The keys in `/init`'s body: `{"control": DIGEST, "relay": DIGEST}`. Raises: TypeError, ValueError."""
    if not isinstance(message, dict):
        raise TypeError("controlKeys must be an object")
    digests = [message.get(name) for name in ("control", "relay")]
    if not all(isinstance(digest, str) and _HEX.fullmatch(digest) for digest in digests):
        raise ValueError("controlKeys must have two SHA-256 digests in hexadecimal")
    return ControlKeys(*map(bytes.fromhex, digests))  # type: ignore[arg-type]
