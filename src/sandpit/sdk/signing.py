"""Addresses: signed file links (current-protocol 1.8), and parts of paths and queries."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlencode

from sandpit.protocol import links, ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.sdk.config import Config


class Addressed(Protocol):
    """What a link needs to know of a sandbox."""

    @property
    def sandbox_id(self) -> str: ...
    @property
    def access_token(self) -> str | None: ...
    @property
    def domain(self) -> str | None: ...


def file_url(
    config: Config, sandbox: Addressed, path: str, operation: links.Operation, user: str | None, expires_in: int | None
) -> str:
    """A link to download (`read`) or upload (`write`) a file without a key; `expires_in`: seconds."""
    query = {"path": path}
    if user is not None:
        query["username"] = user
    expiration = None if expires_in is None else int(time.time()) + expires_in
    if sandbox.access_token is not None:
        query["signature"] = links.sign(path, operation, user or "", sandbox.access_token, expiration)
        if expiration is not None:
            query["signature_expiration"] = str(expiration)
    base = config.port_url(sandbox.sandbox_id, ports.AGENT, sandbox.domain)
    return f"{base}/files?{urlencode(query)}"


def metadata_query(metadata: Mapping[str, str]) -> str:
    """Metadata as the list's filter takes them: each name and value is quoted, then the pairs are (current-protocol 3.5)."""
    return urlencode({quote(name, safe=""): quote(value, safe="") for name, value in metadata.items()})


def path_part(text: str) -> str:
    """Text as one part of a path."""
    return quote(text, safe="")
