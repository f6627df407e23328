"""The agent's paths that belong to the control plane, recognised in every spelling (current-protocol 7, C128)."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from urllib.parse import unquote

RESERVED = frozenset(
    {"init", "changes", "disk", "journal", "memory", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade"}
)
_DECODINGS = 4


def _segments(path: str) -> list[str]:
    """Path segments without empty ones, dots, parameters and blanks."""
    parts = (part.partition(";")[0].strip("".join(map(chr, range(33))) + "\x7f") for part in path.split("/"))
    return [part for part in parts if part not in {"", "."}]


def _resolved(segments: list[str]) -> list[str]:
    found: list[str] = []
    for segment in segments:
        if segment != "..":
            found.append(segment)
        elif found:
            found.pop()
    return found


@lru_cache(maxsize=1024)
def is_reserved(path: bytes) -> bool:
    """Whether any server could take `path` (no query) for a reserved one or something below it.

    Decoded more often than a server would, folded in case, with and without `..` resolved: too strict is harmless
    here, since the agent has no public path that starts with these names.
    """
    text = path.decode("latin-1")
    for _ in range(_DECODINGS):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    else:
        return True  # nobody encodes a path that often with good intent
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\", "/").partition("?")[0].partition("#")[0]
    plain = _segments(text)
    return any(segments[0] in RESERVED for segments in (plain, _resolved(plain)) if segments)
