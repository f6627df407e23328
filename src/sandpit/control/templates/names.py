"""Names of templates as callers write them, in API calls and in `FROM` lines (current-protocol 10.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandpit.control.errors import InvalidRequestError

DEFAULT_TAG = "default"
PLATFORM = ""
"""Namespace of the templates that came with the product."""
_NAME = re.compile(r"(?:(?P<namespace>[a-z0-9_-]+)/)?(?P<name>[a-z0-9_-]{1,128})(?::(?P<tag>[a-z0-9_.-]{1,128}))?")


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """A name as a caller writes it: `name`, `name:tag`, `namespace/name[:tag]`, or a template id."""

    name: str
    namespace: str | None = None
    tag: str | None = None


def parse_ref(text: str) -> TemplateRef:
    """Case does not count (current-protocol 10.4). Raises: InvalidRequestError."""
    match = _NAME.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidRequestError(
            f"'{text[:200]}' is no template: expected an id, 'name', 'name:tag' or 'namespace/name:tag' "
            "with a-z, 0-9, '-' and '_'"
        )
    return TemplateRef(match["name"], match["namespace"], match["tag"])
