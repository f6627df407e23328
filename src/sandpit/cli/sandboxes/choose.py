"""Which sandbox is meant when none was named, and whether something is really wanted: asked in a terminal only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from sandpit.cli.errors import CliError
from sandpit.cli.output import local_time, plain

if TYPE_CHECKING:
    from sandpit.cli.client import Api

MISUSE = 2


def sandbox_id(api: Api, given: str | None, *, states: str = "running") -> str:
    """The id that was given, else the one that is chosen. Raises: CliError: there is nothing, or nobody, to choose."""
    if given:
        return given
    if not has_terminal():
        raise CliError(
            "no sandbox id was given, and there is no terminal to choose one in",
            "give an id; `sandpit sandbox list` shows them", status=MISUSE,
        )  # fmt: skip
    found = api.sandboxes(state=states, limit=100)
    if not found:
        raise CliError(
            f"there is no sandbox to choose ({states.replace(',', ' or ')})", "`sandpit sandbox create` makes one"
        )
    for number, one in enumerate(found, 1):
        about = [one.get("alias") or one["templateID"], one["state"], local_time(one["startedAt"])]
        pairs = [f"{key}={value}" for key, value in (one.get("metadata") or {}).items()]
        typer.echo(f"{number:3}  {one['sandboxID']}  {plain('  '.join([*about, *pairs]))[:200]}", err=True)
    while True:
        text = typer.prompt(f"Which sandbox (1-{len(found)})", default="1", err=True)
        if text.isdecimal() and 1 <= int(text) <= len(found):
            return str(found[int(text) - 1]["sandboxID"])


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `--yes` said it. Raises: CliError: there is nobody to ask; typer.Abort."""
    if yes:
        return
    if not has_terminal():
        raise CliError("this needs a confirmation, and there is no terminal to ask in", "add --yes", status=MISUSE)
    typer.confirm(question, abort=True, err=True)


def has_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
