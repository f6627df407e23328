"""Addresses: signed file links (current-protocol 1.8), and parts of paths and queries."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.sdk.config import Config

_AGENT_PORT = 49983


class Addressed(Protocol):
    """What a link needs to know of a sandbox."""

    @property
    def sandbox_id(self) -> str: ...
    @property
    def access_token(self) -> str | None: ...
    @property
    def domain(self) -> str | None: ...


def file_url(
    config: Config, sandbox: Addressed, path: str, operation: str, user: str | None, expires_in: int | None
) -> str:
    """A link to download (`read`) or upload (`write`) a file without a key; `expires_in`: seconds."""
    query = {"path": path}
    if user is not None:
        query["username"] = user
    expiration = None if expires_in is None else int(time.time()) + expires_in
    if sandbox.access_token is not None:
        query["signature"] = signature(path, operation, user, sandbox.access_token, expiration)
        if expiration is not None:
            query["signature_expiration"] = str(expiration)
    base = config.port_url(sandbox.sandbox_id, _AGENT_PORT, sandbox.domain)
    return f"{base}/files?{urlencode(query)}"


def signature(path: str, operation: str, user: str | None, token: str, expiration: int | None) -> str:
    """What shows that a link was made by someone who has the sandbox's token."""
    parts = [path, operation, user or "", token]
    if expiration is not None:
        parts.append(str(expiration))
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def metadata_query(metadata: Mapping[str, str]) -> str:
    """Metadata as the list's filter takes them: each name and value is quoted, then the pairs are (current-protocol 3.5)."""
    return urlencode({quote(name, safe=""): quote(value, safe="") for name, value in metadata.items()})


def path_part(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="")
