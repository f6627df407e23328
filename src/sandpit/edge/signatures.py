"""Signed file links: whose they are, and whether the agent would accept them (current-protocol 1.6, 1.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from sandpit.protocol.links import FIELDS, Link, Operation

from .refusals import Refusal

if TYPE_CHECKING:
    from sandpit.contract.directory import Directory, Target

_OPERATIONS: dict[bytes, tuple[Operation, ...]] = {
    b"GET": ("read",),
    b"HEAD": ("read",),
    b"POST": ("write",),
    b"OPTIONS": ("read", "write"),  # a browser asks first, for either
}
_PATH = b"/files"


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A request for a file by a signed link."""

    operations: tuple[Operation, ...]
    """Those that its method may be about; any of them will do."""
    link: Link

    def is_signed_with(self, token: str) -> bool:
        """Whether the sandbox that has this access token, or its owner, made the link."""
        return any(self.link.is_signed_with(token, operation) for operation in self.operations)

    def opens(self, token: str) -> bool:
        """Whether the agent of the sandbox that has this token would accept the link now."""
        return any(self.link.judge(token, operation) == "opens" for operation in self.operations)


def parse_link(method: bytes, target: bytes) -> FileRequest | None:
    """The signed link that a request is for; None when it is none. Raises: Refusal for one that says something twice."""
    path, _, query = target.partition(b"?")
    if path != _PATH or method not in _OPERATIONS:
        return None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    fields = dict(pairs)
    if "signature" not in fields:
        return None
    for name in FIELDS:
        if sum(name == given for given, _ in pairs) > 1:
            raise Refusal(400, f"query parameter '{name}' is given twice")
    expiration = fields.get("signature_expiration")
    link = Link(fields.get("path", ""), fields.get("username", ""), fields["signature"], expiration)
    return FileRequest(_OPERATIONS[method], link)


def find_signed(method: bytes, target: bytes, directory: Directory) -> Target | None:
    """The sandbox whose token signed the link of a request that names none; None when `target` is no signed file link.

    It says only whose the link is: the agent judges it, or before it `opens`. Raises: Refusal (401, in the agent's words) for a signature
    that belongs to no sandbox, 400 for a link that says something twice.
    """
    request = parse_link(method, target)
    if request is None:
        return None
    for found in directory.targets():
        if found.access_token is not None and request.is_signed_with(found.access_token):
            return found
    raise Refusal(401, "invalid signature")


def opens(method: bytes, target: bytes, token: str) -> bool:
    """Whether the agent of the sandbox with this access token would accept the link, now. Raises: Refusal as `parse_link`."""
    request = parse_link(method, target)
    return request is not None and request.opens(token)
