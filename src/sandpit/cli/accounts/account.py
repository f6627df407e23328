"""Which server the user's commands talk to, and with which key.

The first that is there: `SANDPIT_*` or `E2B_*` variables, what `sandpit auth login` has stored, the server of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sandpit.cli.errors import CliError

DEFAULT_API_URL = "http://127.0.0.1:3000"
_EDGE_AFTER_API = 2
"""The port for what is inside sandboxes is the API's and this, where nobody has chosen otherwise (3000 and 3002)."""


@dataclass(frozen=True, slots=True)
class Account:
    """A server and a key for it."""

    api_url: str
    sandbox_url: str | None
    """One address for everything inside sandboxes; None: names below the domain that the server tells."""
    api_key: str
    source: str
    """Where this was found."""


def config_file() -> Path:
    """What `auth login` writes."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "sandpit" / "config.json"


def find() -> Account:
    """The account to use. Raises: CliError: there is none."""
    for found in (_from_environment(), _from_file(), _from_this_machine()):
        if found is not None:
            return found
    raise CliError(
        "no server is known: neither E2B_API_KEY is set, nor is anybody logged in, nor is a server of this machine to be found",
        'run `sandpit auth login`, or `eval "$(sudo sandpit env)"` on the server\'s machine',
    )


def setting(name: str) -> str | None:
    """`SANDPIT_<name>`, else `E2B_<name>`, if it is not empty."""
    return os.environ.get(f"SANDPIT_{name}") or os.environ.get(f"E2B_{name}") or None


def beside(api_url: str) -> str | None:
    """Where what is inside sandboxes is, when nobody has said: the API's host, two ports on."""
    parts = urlsplit(api_url)
    if parts.port is None or parts.hostname is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port + _EDGE_AFTER_API}"


def _from_environment() -> Account | None:
    key = setting("API_KEY")
    if key is None:
        return None
    domain, api_url, sandbox_url = setting("DOMAIN"), setting("API_URL"), setting("SANDBOX_URL")
    if api_url is None and domain is not None:
        api_url = f"https://api.{domain}"
    elif api_url is None:
        api_url = DEFAULT_API_URL
    if sandbox_url is None and domain is None:
        sandbox_url = beside(api_url)
    return Account(api_url.rstrip("/"), sandbox_url and sandbox_url.rstrip("/"), key, "the environment")


def _from_file() -> Account | None:
    stored = read_config()
    if stored is None:
        return None
    return Account(stored["api_url"], stored["sandbox_url"], stored["api_key"], str(config_file()))


def read_config() -> dict[str, Any] | None:
    """What is stored; None when nobody is logged in. Raises: CliError: it is not what `auth login` writes."""
    path = config_file()
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        if not all(isinstance(stored[name], str) for name in ("api_url", "api_key")):
            raise TypeError("api_url and api_key must be strings")
        stored.setdefault("sandbox_url", None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CliError(f"{path} cannot be used: {error!r}", "run `sandpit auth login` again, or delete it") from None
    return stored


def write_config(account: Account) -> None:
    """Store an account for its owner alone. Raises: CliError."""
    path = config_file()
    values = {"api_url": account.api_url, "sandbox_url": account.sandbox_url, "api_key": account.api_key}
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(values, file, indent=1)
        temporary.replace(path)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from None


def _from_this_machine() -> Account | None:
    """The server that runs here, for who may read its key."""
    from sandpit.cli.server.local import address, api_key, load_settings, running_state

    with contextlib.suppress(CliError, ImportError):  # a server's packages are missing where only users are
        settings = load_settings()
        state = running_state(settings)
        return Account(address(state, "api"), address(state, "edge"), api_key(settings), "the server of this machine")
    return None
