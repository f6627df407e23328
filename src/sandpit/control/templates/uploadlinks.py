"""Links to upload an archive without a key: whoever has one may store this one archive for this one team, for an hour."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

SECONDS = 3600 + 300
"""Clients take up to an hour for an upload."""


def _now() -> float:
    """Links end by the time that passes, not by the wall clock, which may be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class UploadLink:
    """What a link is for: one archive of one team, as long as the key or token that it was made with is valid."""

    team_id: str
    files_hash: str
    credential_id: str | None


class UploadLinks:
    """Signs and checks. Links of an earlier server process are worthless: clients ask for new ones."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def make(self, team_id: str, files_hash: str, credential_id: str | None = None) -> str:
        """The last part of a link. It is worth as much as the key or token with which it was asked for."""
        content = f"{team_id}:{files_hash}:{int(_now()) + SECONDS}:{credential_id or ''}"
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=") + "." + self._sign(content)

    def check(self, token: str) -> UploadLink | None:
        """What a link is for, None when it is forged or too old."""
        text, _, signature = token.partition(".")
        try:
            content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode(), self._sign(content).encode()):
            return None
        team_id, files_hash, end, credential_id = content.split(":")
        return UploadLink(team_id, files_hash, credential_id or None) if int(end) > _now() else None

    def _sign(self, content: str) -> str:
        return hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()
