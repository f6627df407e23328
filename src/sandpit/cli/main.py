"""The command line. This module only declares: what a command needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sandpit import __version__
from sandpit.cli.errors import CliError
from sandpit.cli.sandboxes import actions as sandbox_commands
from sandpit.cli.templates.template import app as template

app = typer.Typer(
    name="sandpit",
    help="Self-hosted sandboxes for AI-generated code. Settings: SANDPIT_* variables, /etc/sandpit/sandpit.toml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
keys = typer.Typer(help="API keys of the first team.", no_args_is_help=True)
app.add_typer(keys, name="keys")
teams = typer.Typer(help="Teams: who uses this server, with sandboxes and keys of their own.", no_args_is_help=True)
app.add_typer(teams, name="teams")
auth = typer.Typer(help="Which server the commands for sandboxes talk to, and with which key.", no_args_is_help=True)
app.add_typer(auth, name="auth")
app.add_typer(sandbox_commands.app, name="sandbox")
app.add_typer(sandbox_commands.app, name="sbx", hidden=True)
app.add_typer(template, name="template")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait.")]
EndSandboxes = Annotated[bool, typer.Option("--sandboxes", help="End all sandboxes, too.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Restart it if Sandpit or its templates changed since.")]
Warm = Annotated[bool, typer.Option("--warm", help="Wait until every template has a sandbox ready in the pool.")]
LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error.")]


LogFile = Annotated[bool, typer.Option("--log-file", help="Write to the log of `sandpit up`, and rotate it.")]


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sandpit {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version, expose_value=False)
]


@app.callback()
def main_options(version: Version = False) -> None:
    """What stands before a command's name."""


@app.command()
def server(log_level: LogLevel = "info", log_file: LogFile = False) -> None:
    """Run the server in the foreground."""
    from sandpit.cli.server.foreground import run

    run(log_level, to_file=log_file)


@app.command()
def prepare() -> None:
    """Install the programs that this machine lacks, and build the templates that come with Sandpit."""
    from sandpit.cli.server.prepare import prepare

    prepare()


@app.command()
def up(timeout: Timeout = 180.0, refresh: Refresh = False, warm: Warm = False) -> None:
    """Start the server in the background, unless it runs."""
    from sandpit.cli.server.daemon import up, warm_up

    up(timeout, refresh=refresh)
    if warm:
        warm_up(timeout)


@app.command()
def down(sandboxes: EndSandboxes = False, timeout: Timeout = 60.0) -> None:
    """Stop the server. Sandboxes go on, and the next server finds them."""
    from sandpit.cli.server.daemon import down

    down(sandboxes=sandboxes, timeout=timeout)


@app.command()
def status(as_json: Json = False) -> None:
    """Say what the server is doing. Exit status: 0 running, 3 not running, 4 running but not answering."""
    from sandpit.cli.server.reports import status

    status(as_json=as_json)


@app.command()
def env(
    as_json: Json = False,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="Fail where the clients of 2024 cannot work: they need HTTPS.")
    ] = False,
) -> None:
    """Print what official clients need: eval "$(sandpit env)"."""
    from sandpit.cli.server.reports import env

    env(as_json=as_json, legacy=legacy)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and say how to mend it. Exit status 1 when something that is needed is missing."""
    from sandpit.cli.doctor.command import doctor

    doctor(as_json=as_json)


@app.command()
def openapi() -> None:
    """Print the API's description (OpenAPI 3.1, JSON): routes, fields, limits, answers."""
    from sandpit.cli.server.reports import openapi

    openapi()


@app.command()
def version() -> None:
    """Print the version."""
    _say_version(True)


@app.command()
def mcp(
    template: Annotated[str, typer.Option(help="What the sandbox is made of.")] = "code-interpreter-v1",
    sandbox: Annotated[str | None, typer.Option(metavar="ID", help="Use this one, and leave it running.")] = None,
    timeout: Annotated[int, typer.Option(min=30, help="Seconds the sandbox lives after the last call.")] = 600,
) -> None:
    """Offer a sandbox to a program that speaks the Model Context Protocol, over standard input and output."""
    from sandpit.cli.mcpserver import serve

    serve(template, sandbox, timeout)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure this machine's Sandpit, from its source tree: all arguments go to ./bench."""
    from sandpit.cli.server.measure import bench

    bench(context.args)


@auth.command()
def login(
    api_url: Annotated[str | None, typer.Option(help="The server, for instance http://host:3000.")] = None,
    api_key: Annotated[str | None, typer.Option(help="A key of this server's.")] = None,
    sandbox_url: Annotated[str | None, typer.Option(help="For what is inside sandboxes; else two ports on.")] = None,
    as_json: Json = False,
) -> None:
    """Check a server and a key, and use them from now on. Asks for what is missing."""
    from sandpit.cli.accounts.auth import login

    login(api_url, api_key, sandbox_url, as_json=as_json)


@auth.command()
def logout(as_json: Json = False) -> None:
    """Forget what login has stored."""
    from sandpit.cli.accounts.auth import logout

    logout(as_json=as_json)


@auth.command("info")
def auth_info(as_json: Json = False) -> None:
    """Tell which server and key are used, and whether they work."""
    from sandpit.cli.accounts.auth import info

    info(as_json=as_json)


@keys.command("create")
def create_key(name: Annotated[str, typer.Argument(help="What the key is for.")], as_json: Json = False) -> None:
    """Make an API key and print it: it is shown this once."""
    from sandpit.cli.accounts.keys import create

    create(name, as_json=as_json)


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the API keys."""
    from sandpit.cli.accounts.keys import show

    show(as_json=as_json)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="From `sandpit keys list`.")]) -> None:
    """Make an API key worthless, at once."""
    from sandpit.cli.accounts.keys import revoke

    revoke(key_id)


@teams.command("create")
def create_team(name: Annotated[str, typer.Argument(help="The team's name.")], as_json: Json = False) -> None:
    """Make a team and print its first API key: it is shown this once."""
    from sandpit.cli.accounts.teams import create

    create(name, as_json=as_json)


@teams.command("list")
def list_teams(as_json: Json = False) -> None:
    """List the teams."""
    from sandpit.cli.accounts.teams import show

    show(as_json=as_json)


def main() -> None:
    """The entry point: expected failures become a message and an exit status."""
    try:
        app()
    except CliError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.status)
    except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
