"""Identifiers and secrets. All of them are random; none says anything about machines or time."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import uuid

_ALPHABET = string.ascii_lowercase + string.digits
KEY_PREFIX = "e2b_"
TOKEN_PREFIX = "sk_e2b_"  # noqa: S105
_SANDBOX_ID = re.compile(r"[a-z0-9]{1,32}")


def sandbox_id() -> str:
    """`i` and 20 of a-z0-9 (current-protocol 3.2)."""
    return "i" + _random(20)


def template_id() -> str:
    """20 of a-z0-9 (legacy-protocol 2.1)."""
    return _random(20)


def new_uuid() -> str:
    """A random UUID, for teams, users, keys and builds."""
    return str(uuid.uuid4())


def new_secret() -> str:
    """32 characters of a-zA-Z0-9 (190 bits): agent and traffic tokens."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


def api_key() -> str:
    """`e2b_` and 40 hexadecimal digits (current-protocol 1.9)."""
    return KEY_PREFIX + secrets.token_hex(20)


def access_token() -> str:
    """`sk_e2b_` and 40 hexadecimal digits (current-protocol 1.9)."""
    return TOKEN_PREFIX + secrets.token_hex(20)


def digest(secret: str) -> str:
    """SHA-256 in hex: what the store keeps of a key, and what it is looked up by."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def parse_sandbox_id(text: str) -> str | None:
    """The sandbox id in `id` or in the `id-client` form of 2024 (legacy-protocol 2.1), else None."""
    short, dash, client = text.partition("-")
    if dash and "-" in client:
        return None
    return short if _SANDBOX_ID.fullmatch(short) else None


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
