"""`sandpit teams`: who may use this server, each with sandboxes and keys of its own."""

from __future__ import annotations

import json
from typing import Any

import typer

from sandpit.cli.errors import CliError
from sandpit.cli.server.local import NOT_ANSWERING, control, load_settings, need_root, running_state


def create(name: str, *, as_json: bool) -> None:
    """Make a team and print its first key. Raises: CliError."""
    team = _ask("POST", {"name": name})
    typer.echo(json.dumps(team, indent=1) if as_json else team["key"])


def show(*, as_json: bool) -> None:
    """List the teams, and the disk that their paused sandboxes, snapshots and templates use. Raises: CliError."""
    teams = _ask("GET")
    if as_json:
        typer.echo(json.dumps(teams, indent=1))
        return
    for team in teams:
        kept = f"{team['snapshotBytes'] >> 20} MiB of snapshots, {team['templateBytes'] >> 20} MiB of templates"
        typer.echo(f"{team['id']}  {team['slug']:20}  {team['name']}  ({kept})")


def _ask(method: str, body: object = None) -> Any:
    settings = load_settings()
    need_root("managing teams")
    running_state(settings)
    try:
        return control(settings, method, "/teams", body)
    except OSError as error:
        raise CliError(f"the server does not answer: {error}", "see its log", status=NOT_ANSWERING) from None
