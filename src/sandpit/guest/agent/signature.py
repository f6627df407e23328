"""Signed file links (current-protocol 1.8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from typing import Literal

Operation = Literal["read", "write"]


class SignatureRefusedError(Exception):
    """The link's signature does not open the path. The message is the protocol's."""


def sign(path: str, operation: Operation, user: str, token: str, expiration: int | None = None) -> str:
    """The signature of a link; `path` and `user` exactly as in the query, `expiration` in Unix seconds."""
    raw = f"{path}:{operation}:{user}:{token}"
    if expiration is not None:
        raw += f":{expiration}"
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode()


def check(
    signature: str | None, path: str, operation: Operation, user: str, token: str, expiration: str | None = None
) -> None:
    """Accept a link or raise SignatureRefusedError, in the official order: missing, invalid, expired."""
    if not signature:
        raise SignatureRefusedError("missing signature query parameter")
    if expiration is not None and not re.fullmatch(r"0|[1-9][0-9]{0,17}", expiration):
        # Only canonical numbers can have been signed.
        raise SignatureRefusedError("invalid signature")
    expires = None if expiration is None else int(expiration)
    expected = sign(path, operation, user, token, expires)
    if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode()):
        raise SignatureRefusedError("invalid signature")
    if expires is not None and expires < time.time():
        raise SignatureRefusedError("signature is already expired")
