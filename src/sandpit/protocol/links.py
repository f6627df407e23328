"""Signed file links (current-protocol 1.8): how they are signed, and when they open a path."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Literal

Operation = Literal["read", "write"]
Verdict = Literal["opens", "missing", "invalid", "expired"]
FIELDS = ("path", "username", "signature", "signature_expiration")
"""The query parameters of a link. One that is given twice makes the link ambiguous: refuse it."""
_CANONICAL = re.compile(r"0|[1-9][0-9]{0,17}")
"""Unix seconds as they are signed: a number in any other notation cannot have been."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says, exactly as in its query."""

    path: str
    user: str
    signature: str
    expiration: str | None = None
    """Unix seconds; None: the link does not expire."""

    def is_signed_with(self, token: str, operation: Operation) -> bool:
        """Whether somebody who has this access token made the link, for this operation."""
        if self.expiration is not None and not _CANONICAL.fullmatch(self.expiration):
            return False
        expected = sign(self.path, operation, self.user, token, self.expiration)
        return hmac.compare_digest(expected.encode(), self.signature.encode("utf-8", "surrogatepass"))

    def has_expired(self) -> bool:
        """By this machine's clock. Only for a link that is signed."""
        return self.expiration is not None and int(self.expiration) < time.time()

    def judge(self, token: str, operation: Operation) -> Verdict:
        """Whether the link opens its path now. The order is that of the official agent: missing, invalid, expired."""
        if not self.signature:
            return "missing"
        if not self.is_signed_with(token, operation):
            return "invalid"
        return "expired" if self.has_expired() else "opens"


def sign(path: str, operation: Operation, user: str, token: str, expiration: int | str | None = None) -> str:
    """The signature of a link; `path` and `user` exactly as in its query, `expiration` in Unix seconds."""
    parts = (path, operation, user, token) if expiration is None else (path, operation, user, token, str(expiration))
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode()
