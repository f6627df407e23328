"""Signed file links: whose they are, and whether the agent would accept them (current-protocol 1.6, 1.8).

The agent's own rules are in `sandpit.guest.agent.files.routes` and `.signature`, which cannot be imported here; one table of cases is tried on
both (`tests/edge/test_links.py`), so that they stay the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from .refusals import Refusal

if TYPE_CHECKING:
    from sandpit.contract.directory import Directory, Target

_OPERATIONS = {
    b"GET": ("read",),
    b"HEAD": ("read",),
    b"POST": ("write",),
    b"OPTIONS": ("read", "write"),  # a browser asks first, for either
}
_PATH = b"/files"
_SIGNED_FIELDS = ("path", "username", "signature", "signature_expiration")
_EXPIRATION = re.compile(r"0|[1-9][0-9]{0,17}")
"""Only canonical numbers can have been signed."""


@dataclass(frozen=True, slots=True)
class Link:
    """A request for a file, as far as its signature says who may make it."""

    operations: tuple[str, ...]
    path: str
    user: str
    signature: str
    expiration: str | None

    def is_signed_with(self, token: str) -> bool:
        """Whether the sandbox that has this access token, or its owner, made the link."""
        if self.expiration is not None and not _EXPIRATION.fullmatch(self.expiration):
            return False
        end = "" if self.expiration is None else f":{self.expiration}"
        given = self.signature.encode("utf-8", "surrogatepass")
        return any(
            hmac.compare_digest(_sign(f"{self.path}:{operation}:{self.user}:{token}{end}").encode(), given)
            for operation in self.operations
        )

    @property
    def has_expired(self) -> bool:
        """By this machine's clock, in whole Unix seconds like the agent's. The signature has been checked."""
        return self.expiration is not None and int(self.expiration) < time.time()


def parse_link(method: bytes, target: bytes) -> Link | None:
    """The signed link that a request is for; None when it is none. Raises: Refusal for one that says something twice."""
    path, _, query = target.partition(b"?")
    if path != _PATH or method not in _OPERATIONS:
        return None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    fields = dict(pairs)
    if "signature" not in fields:
        return None
    for name in _SIGNED_FIELDS:
        if sum(name == given for given, _ in pairs) > 1:
            raise Refusal(400, f"query parameter '{name}' is given twice")
    return Link(
        _OPERATIONS[method],
        fields.get("path", ""),
        fields.get("username", ""),
        fields["signature"],
        fields.get("signature_expiration"),
    )


def find_signed(method: bytes, target: bytes, directory: Directory) -> Target | None:
    """The sandbox whose token signed the link of a request that names none; None when `target` is no signed file link.

    It says only whose the link is: the agent judges it, or before it `opens`. Raises: Refusal (401, in the agent's words) for a signature
    that belongs to no sandbox, 400 for a link that says something twice.
    """
    link = parse_link(method, target)
    if link is None:
        return None
    for found in directory.targets():
        if found.access_token is not None and link.is_signed_with(found.access_token):
            return found
    raise Refusal(401, "invalid signature")


def opens(method: bytes, target: bytes, token: str) -> bool:
    """Whether the agent of the sandbox with this access token would accept the link, now. Raises: Refusal as `parse_link`."""
    link = parse_link(method, target)
    return link is not None and link.is_signed_with(token) and not link.has_expired


def _sign(raw: str) -> str:
    digest = base64.b64encode(hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest())
    return "v1_" + digest.decode().rstrip("=")
