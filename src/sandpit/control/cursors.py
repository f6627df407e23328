"""Cursors of paged lists (current-protocol 2.4): base64url of `time__id`, with `__asc` for ascending lists."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from sandpit.control.errors import InvalidRequestError
from sandpit.control.times import rfc3339

MAX_PAGE = 100
"""Items of a page, by default and at most."""


def encode_cursor(when: datetime, row_id: str, ascending: bool) -> str:
    """The cursor after the item with this time and id."""
    text = f"{rfc3339(when)}__{row_id}" + ("__asc" if ascending else "")
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_cursor(token: str, ascending: bool) -> tuple[datetime, str]:
    """Time and id of the last item of the page before. Raises: InvalidRequestError."""
    try:
        padded = token + "=" * (-len(token) % 4)
        when, row_id, *order = base64.b64decode(padded, altchars=b"-_", validate=True).decode().split("__")
        started = datetime.fromisoformat(when)
        if started.tzinfo is None or order != (["asc"] if ascending else []):
            raise ValueError(token)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequestError("Invalid next token") from error
    return started, row_id
