"""By what a sandbox's agent knows that a control call is the node's, and that a relay connection is the edge's.

A secret belongs to one sandbox, between two claims. The agent has digests alone (`sandpit.guest.agent.control.secrets`), so that nothing
inside can call in the node's name. The node keeps the secret in the sandbox's record and in the manifest of a snapshot, both readable by
it alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER = "X-Sandpit-Control"
CONTROL_PATHS = frozenset({"/init", "/freeze", "/unfreeze", "/disk", "/changes", "/journal", "/memory"})
"""Paths whose calls carry the secret; no other call does."""


@dataclass(slots=True)
class ControlSecret:
    """The secret of one sandbox. Empty for one that was started before there were secrets: its agent goes by the peer's address."""

    current: str = field(repr=False)
    offered: str | None = field(default=None, repr=False)
    """What replaces it as soon as the agent has confirmed that."""
    former: str | None = field(default=None, repr=False)
    """Of a sandbox found at start: the one before. A server that died during a claim did not learn which of both counts."""

    @classmethod
    def new(cls) -> ControlSecret:
        """A random one, of 256 bits."""
        return cls(secrets.token_hex(32))

    @classmethod
    def recorded(cls, kept: Sequence[str]) -> ControlSecret:
        """As `record` gave it."""
        return cls(kept[0] if kept else "", former=kept[1] if len(kept) > 1 else None)

    def record(self) -> list[str]:
        """What to keep on disk: all that the agent may go by, the likeliest first."""
        return [one for one in (self.offered, self.current, self.former) if one]

    def handover(self) -> bytes:
        """What the agent reads on its standard input when it starts."""
        keys = _keys(self.current)
        return f"{keys['control']} {keys['relay']}\n".encode()

    def offer(self) -> dict[str, str]:
        """The successor's digests, for `/init`; none for an agent that goes by the address. Before the call, `record` must be on disk."""
        if not self.current:
            return {}
        if self.offered is None:
            self.offered = secrets.token_hex(32)
        return _keys(self.offered)

    def accepted(self) -> None:
        """The agent has taken what was offered."""
        if self.offered is not None:
            self.current, self.offered, self.former = self.offered, None, None

    def confirmed(self) -> None:
        """The agent has answered to `current`."""
        self.former = None

    def swap(self) -> bool:
        """Try the former one, the agent having refused `current`; whether there is one."""
        if self.former is None:
            return False
        self.current, self.former = self.former, self.current
        return True

    def headers(self, path: str) -> dict[str, str]:
        """What a call of `path` carries."""
        return {HEADER: self.current} if self.current and path in CONTROL_PATHS else {}

    @property
    def relay(self) -> str:
        """The edge's part: it opens the relay and no control call. Empty without a secret."""
        return _relay(self.current) if self.current else ""


def _keys(secret: str) -> dict[str, str]:
    """The SHA-256 digests that the agent compares with, in hexadecimal."""
    pairs = {"control": secret, "relay": _relay(secret)}
    return {name: hashlib.sha256(value.encode()).hexdigest() for name, value in pairs.items()}


def _relay(secret: str) -> str:
    return hmac.new(secret.encode(), b"relay", "sha256").hexdigest()
