"""Links to upload an archive without a key: whoever has one may store this one archive for this one team, for an hour."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

SECONDS = 3600 + 300
"""Clients take up to an hour for an upload."""


class UploadLinks:
    """Signs and checks. Links of an earlier server process are worthless: clients ask for new ones."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def make(self, team_id: str, files_hash: str) -> str:
        """The last part of a link."""
        content = f"{team_id}:{files_hash}:{int(time.time()) + SECONDS}"
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=") + "." + self._sign(content)

    def check(self, token: str) -> tuple[str, str] | None:
        """Team and hash, None when the link is forged or too old."""
        text, _, signature = token.partition(".")
        try:
            content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode(), self._sign(content).encode()):
            return None
        team_id, files_hash, end = content.split(":")
        return (team_id, files_hash) if int(end) > time.time() else None

    def _sign(self, content: str) -> str:
        return hmac.new(self._secret, content.encode(), hashlib.sha256).hexdigest()
