"""Signed file links that name no sandbox: its secret token is in the signature (current-protocol 1.6, 1.8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from .refusals import Refusal

if TYPE_CHECKING:
    from .directory import Directory, Target

_OPERATIONS = {
    b"GET": ("read",),
    b"HEAD": ("read",),
    b"POST": ("write",),
    b"OPTIONS": ("read", "write"),  # a browser asks first, for either
}


def _sign(raw: str) -> str:
    digest = base64.b64encode(hashlib.sha256(raw.encode(errors="surrogateescape")).digest())
    return "v1_" + digest.decode().rstrip("=")


def find_signed(method: bytes, target: bytes, directory: Directory) -> Target | None:
    """The running sandbox whose token signed the link; None when `target` is no signed file link.

    The agent checks the signature and its expiry again: here it only says whose it is. Raises Refusal (401, in the
    agent's words) for a signature that belongs to no running sandbox.
    """
    path, _, query = target.partition(b"?")
    if path != b"/files" or b"signature=" not in query or method not in _OPERATIONS:
        return None
    fields = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    given = fields.get("signature", [""])[0].encode()
    user, expiration = fields.get("username", [""])[0], fields.get("signature_expiration", [""])[0]
    suffix = f":{expiration}" if expiration else ""
    for operation in _OPERATIONS[method]:
        prefix = f"{fields.get('path', [''])[0]}:{operation}:{user}"
        for found in directory.targets():
            if found.access_token is None:
                continue
            if hmac.compare_digest(_sign(f"{prefix}:{found.access_token}{suffix}").encode(), given):
                return found
    raise Refusal(401, "invalid signature")
