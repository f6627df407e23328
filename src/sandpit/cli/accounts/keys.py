"""`sandpit keys`: API keys, through the API like every other client."""

from __future__ import annotations

import json
from urllib.parse import quote

import typer

from sandpit.cli.server.local import call_api, load_settings


def create(name: str, *, as_json: bool) -> None:
    """Make a key and print it. Raises: CliError."""
    key = call_api(load_settings(), "POST", "/api-keys", {"name": name})
    typer.echo(json.dumps(key, indent=1) if as_json else key["key"])


def show(*, as_json: bool) -> None:
    """List the keys; of each only what identifies it. Raises: CliError."""
    rows = call_api(load_settings(), "GET", "/api-keys")
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        mask = row["mask"]
        shown = f"{mask['prefix']}{mask['maskedValuePrefix']}...{mask['maskedValueSuffix']}"
        typer.echo(f"{row['id']}  {shown:20}  {row['createdAt'][:10]}  {row['name']}")


def revoke(key_id: str) -> None:
    """Revoke a key. Raises: CliError."""
    call_api(load_settings(), "DELETE", f"/api-keys/{quote(key_id, safe='')}")
    typer.echo(f"revoked {key_id}")
