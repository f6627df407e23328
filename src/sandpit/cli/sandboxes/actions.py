"""Declares `sandpit sandbox`. Like `main`: what a command needs is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sandpit.cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

app = typer.Typer(help="Sandboxes: create, connect to, look into and end them.", no_args_is_help=True)


def _complete(incomplete: str) -> list[str]:
    """Ids of the sandboxes there are, for the shell."""
    from sandpit.cli.client import Api

    try:
        with Api() as api:
            return [one["sandboxID"] for one in api.sandboxes(limit=100) if one["sandboxID"].startswith(incomplete)]
    except CliError:
        return []


Id = Annotated[str | None, typer.Argument(metavar="[ID]", help="Asked for if missing.", autocompletion=_complete)]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", autocompletion=_complete)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Format = Annotated[str, typer.Option("--format", "-f", help="pretty or json.")]
LongFormat = Annotated[str, typer.Option("--format", help="pretty or json.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the sandbox ends.")]
State = Annotated[str, typer.Option("--state", "-s", help="running, paused, or both with a comma.")]
Metadata = Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="K=V", help="Several: K=V,K2=V2.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Who runs it in the sandbox.")]
Cwd = Annotated[str | None, typer.Option("--cwd", "-c", help="Where it runs in the sandbox.")]
Env = Annotated[list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="A variable for it; repeatable.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Timeout = Annotated[int | None, typer.Option("--timeout", min=1, help="Seconds to live.")]
Life = Annotated[int, typer.Option("--timeout", min=1, help="Seconds to live from then on.")]
Template = Annotated[str | None, typer.Argument(metavar="[TEMPLATE]", help="Name or id.")]
OnTimeout = Annotated[str | None, typer.Option("--on-timeout", "--lifecycle.ontimeout", help="kill or pause.")]
AutoResume = Annotated[bool, typer.Option("--auto-resume", "--lifecycle.autoresume", help="Requests resume it.")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Print the id instead of opening a terminal.")]
NoInternet = Annotated[bool, typer.Option("--no-internet", help="Without access to the internet.")]
SandboxEnv = Annotated[list[str] | None, typer.Option("--sandbox-env", metavar="K=V", help="For all of the sandbox.")]


def _json(as_json: bool, text: str) -> bool:
    if text not in ("pretty", "json"):
        raise CliError(f"--format must be pretty or json, got {text!r}", status=2)
    return as_json or text == "json"


def _also(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """More names for a command, which help does not list."""

    def declare(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            app.command(name, hidden=True, context_settings=getattr(command, "settings", None))(command)
        return command

    return declare


@_also("ls")
@app.command("list")
def list_sandboxes(
    state: State = "running",
    metadata: Metadata = None,
    template: Annotated[str | None, typer.Option("--template", "-t", help="Name or id.")] = None,
    started_after: Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601 with offset.")] = None,
    order: Annotated[str, typer.Option("--order", "-o", help="asc or desc, by start.")] = "asc",
    limit: Annotated[int, typer.Option("--limit", "-l", min=0, help="0: all.")] = 1000,
    as_json: Json = False,
    form: Format = "pretty",
) -> None:
    """List sandboxes."""
    from sandpit.cli.sandboxes.sandbox import listed

    chosen = _json(as_json, form)
    listed(state, metadata or [], template, started_after, order, limit, as_json=chosen)


@_also("in")
@app.command()
def info(sandbox_id: Id = None, as_json: Json = False, form: Format = "pretty") -> None:
    """Tell all about one."""
    from sandpit.cli.sandboxes.sandbox import info

    info(sandbox_id, as_json=_json(as_json, form))


@_also("cr")
@app.command()
def create(
    template: Template = "base",
    detach: Detach = False,
    timeout: Timeout = None,
    metadata: Metadata = None,
    on_timeout: OnTimeout = None,
    auto_resume: AutoResume = False,
    no_internet: NoInternet = False,
    sandbox_env: SandboxEnv = None,
    user: User = None,
    cwd: Cwd = None,
    env: Env = None,
    as_json: Json = False,
) -> None:
    """Start a sandbox and open a terminal in it; it ends with the terminal unless --timeout is given."""
    from sandpit.cli.sandboxes.newsandbox import body
    from sandpit.cli.sandboxes.sandbox import create

    new = body(
        template or "base", timeout, metadata or [], on_timeout, sandbox_env or [],
        auto_resume=auto_resume, internet=not no_internet,
    )  # fmt: skip
    if detach or as_json:
        create(new, as_json=as_json)
        return
    from sandpit.cli.sandboxes.terminal import Session, spawn

    spawn(new, timeout, Session(user, cwd, env or []))


@_also("sp")
@app.command()
def spawn(
    template: Template = None,
    path: Annotated[str, typer.Option("--path", "-p", help="Where the project is.")] = ".",
    config: Annotated[str | None, typer.Option(help="sandpit.toml or e2b.toml.")] = None,
    timeout: Timeout = None,
    user: User = None,
    cwd: Cwd = None,
    env: Env = None,
) -> None:
    """Like create, with the template that sandpit.toml (or e2b.toml) names if none is given."""
    from sandpit.cli.sandboxes.newsandbox import body, template_of
    from sandpit.cli.sandboxes.terminal import Session, spawn

    new = body(template or template_of(path, config), timeout, [], None, [], auto_resume=False, internet=True)
    spawn(new, timeout, Session(user, cwd, env or []))


@_also("cn")
@app.command()
def connect(sandbox_id: Id = None, user: User = None, cwd: Cwd = None, env: Env = None) -> None:
    """Open a terminal in a sandbox; a paused one is resumed."""
    from sandpit.cli.sandboxes.terminal import Session, connect

    connect(sandbox_id, Session(user, cwd, env or []))


@_also("ex")
@app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False})
def execute(
    sandbox_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=_complete)],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="One argument is a shell's line.")],
    background: Annotated[bool, typer.Option("--background", "-b", help="Print the pid and go.")] = False,
    user: User = None,
    cwd: Cwd = None,
    env: Env = None,
) -> None:
    """Run a command; options come before the id. Exit status: the command's, 255 if a signal ended it."""
    from sandpit.cli.sandboxes.execute import Wanted, run

    line = command[1:] if command[0] == "--" else command
    if not line:
        raise CliError("no command was given", "sandpit sandbox exec ID COMMAND", status=2)
    run(sandbox_id, Wanted(line, user, cwd, env or [], background))


@_also("kl")
@app.command()
def kill(
    sandbox_ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All that match --state and --metadata.")] = False,
    state: State = "running",
    metadata: Metadata = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End sandboxes. Exit status 1 when one was not there."""
    from sandpit.cli.sandboxes.sandbox import kill

    kill(sandbox_ids or [], everything=everything, state=state, metadata=metadata or [], yes=yes, as_json=as_json)


@_also("ps")
@app.command()
def pause(
    sandbox_id: Id = None,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Keep processes, too.")] = True,
    as_json: Json = False,
) -> None:
    """Put a sandbox away with all that runs in it."""
    from sandpit.cli.sandboxes.sandbox import pause

    pause(sandbox_id, memory=memory, as_json=as_json)


@_also("rs")
@app.command()
def resume(sandbox_id: Id = None, timeout: Life = 300, as_json: Json = False) -> None:
    """Bring a paused sandbox back."""
    from sandpit.cli.sandboxes.sandbox import resume

    resume(sandbox_id, timeout, as_json=as_json)


@_also("fk")
@app.command()
def fork(
    sandbox_id: Id = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="How many copies.")] = 1,
    timeout: Life = 300,
    as_json: Json = False,
) -> None:
    """Copy a running sandbox with all that runs in it, and print the copies' ids."""
    from sandpit.cli.sandboxes.sandbox import fork

    fork(sandbox_id, count, timeout, as_json=as_json)


@_also("lg")
@app.command()
def logs(
    sandbox_id: Id = None,
    level: Annotated[str, typer.Option(help="DEBUG, INFO, WARN or ERROR, and what is above.")] = "INFO",
    follow: Follow = False,
    loggers: Annotated[str, typer.Option(help="process, filesystem, ... with commas between; all if missing.")] = "",
    as_json: Json = False,
    form: LongFormat = "pretty",
) -> None:
    """Print what happened in a sandbox, also after its end. Times are UTC; JSON is one object a line."""
    from sandpit.cli.sandboxes.follow import logs

    logs(sandbox_id, level, loggers, follow=follow, as_json=_json(as_json, form))


@_also("mt")
@app.command()
def metrics(sandbox_id: Id = None, follow: Follow = False, as_json: Json = False, form: LongFormat = "pretty") -> None:
    """Print what a sandbox uses. JSON is one object a line."""
    from sandpit.cli.sandboxes.follow import metrics

    metrics(sandbox_id, follow=follow, as_json=_json(as_json, form))
