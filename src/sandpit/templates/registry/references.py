"""Names of images, as Docker reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB = "docker.io"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,252}[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An image: registry, path there, and which one of that name."""

    host: str
    path: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Without tag and digest."""
        return f"{self.host}/{self.path}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"

    def at(self, digest: str) -> Reference:
        """The same image by its digest."""
        return replace(self, tag=None, digest=digest)

    def mirrored(self, mirrors: Mapping[str, str]) -> Reference | None:
        """Where the operator's mirror of its registry has it, if there is one. A mirror is `host[:port][/path]`."""
        mirror = mirrors.get(self.host)
        if mirror is None:
            return None
        host, _, path = mirror.partition("/")
        return replace(self, host=host, path=f"{path}/{self.path}" if path else self.path)


def parse(text: str) -> Reference | None:
    """`ubuntu`, `ubuntu:22.04`, `ghcr.io/owner/name@sha256:...`; None for what is no image's name."""
    match = _REFERENCE.fullmatch(text) if len(text) <= 512 else None
    if match is None:
        return None
    host, path = match["host"], match["path"]
    if host is not None and not ("." in host or ":" in host or host == "localhost"):
        if not re.fullmatch(_PART, host):
            return None
        host, path = None, f"{host}/{path}"  # the first part of a path on Docker Hub
    host = (host or HUB).lower()
    if host in ("index.docker.io", "registry-1.docker.io"):
        host = HUB
    if host == HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(host, path, match["tag"], match["digest"])
