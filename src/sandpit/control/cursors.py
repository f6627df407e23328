"""Cursors of paged lists (current-protocol 2.4): base64url of `time__id`, with `__asc` for ascending lists."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime

from sandpit.control.errors import InvalidRequestError
from sandpit.control.limits import MAX_TOKEN
from sandpit.control.times import rfc3339, utc

_ROW_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def encode_cursor(when: datetime, row_id: str, ascending: bool) -> str:
    """The cursor after the item with this time and id."""
    text = f"{rfc3339(when)}__{row_id}" + ("__asc" if ascending else "")
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_cursor(token: str, ascending: bool) -> tuple[datetime, str]:
    """Time and id of the last item of the page before. Raises: InvalidRequestError."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("no token of ours is that long")
        padded = token + "=" * (-len(token) % 4)
        when, row_id, *order = base64.b64decode(padded, altchars=b"-_", validate=True).decode().split("__")
        started = datetime.fromisoformat(when)
        if started.tzinfo is None or order != (["asc"] if ascending else []) or not _ROW_ID.fullmatch(row_id):
            raise ValueError(token)
        return utc(started), row_id
    except (ValueError, binascii.Error) as error:
        raise InvalidRequestError("Invalid next token") from error
