"""The API key of this machine's operator: in a file, because the store keeps digests only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sandpit.control import ids
from sandpit.control.errors import UnauthorizedError
from sandpit.lib.private import replace_private

if TYPE_CHECKING:
    from pathlib import Path

    from sandpit.control.accounts.keys import KeyService

log = logging.getLogger(__name__)
_NAME = "first key"


async def first_key(file: Path, keys: KeyService, team_id: str) -> str | None:
    """Have a key in `file` that works: one that is missing, damaged, unknown or revoked is replaced by a new one of the team.

    Returns the new one, None if the old one stays. Raises: OSError.

    The file comes first: a start that ends before the store has the key leaves no key in the store that nobody can read, and the next
    start, which does not find it there, makes another.
    """
    raw = _read(file)
    if raw is not None:
        try:
            await keys.authenticate(raw)
        except UnauthorizedError:
            log.warning("the key in %s is not valid: replacing it", file)
        else:
            return None
    raw = ids.api_key()
    replace_private(file, raw + "\n")
    await keys.create(team_id, _NAME, raw=raw)
    return raw


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except (FileNotFoundError, ValueError):
        return None
