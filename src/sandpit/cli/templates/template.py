"""`sandpit template ...`: build, list, delete and publish templates."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandpit.cli.errors import CliError

if TYPE_CHECKING:
    from sandpit.cli.templates.api import TemplateApi
    from sandpit.cli.templates.config import TemplateConfig

app = typer.Typer(help="Templates: what sandboxes are made of.", no_args_is_help=True)

Root = Annotated[Path, typer.Option("-p", "--path", help="The directory with the Dockerfile and its files.")]
Dockerfile = Annotated[
    Path | None, typer.Option("-d", "--dockerfile", help="By default sandpit.Dockerfile, e2b.Dockerfile or Dockerfile.")
]
Name = Annotated[str | None, typer.Option("-n", "--name", help="The template's name: a-z, 0-9, - and _.")]
Command = Annotated[str | None, typer.Option("-c", "--cmd", help="What runs already when a sandbox starts.")]
Ready = Annotated[
    str | None,
    typer.Option("--ready-cmd", help="Succeeds when the start command is ready; without one, 15 s are waited."),
]
Cpus = Annotated[int | None, typer.Option("--cpu-count", help="vCPUs of a sandbox: 1, or an even number.")]
Memory = Annotated[int | None, typer.Option("--memory-mb", help="MiB of memory of a sandbox: even, at least 128.")]
Config = Annotated[Path | None, typer.Option("--config", help="By default sandpit.toml or e2b.toml.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run every step again.")]
BuildArg = Annotated[list[str] | None, typer.Option("--build-arg", help="NAME=VALUE for an ARG.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Template = Annotated[
    str | None, typer.Argument(help="Name or id; by default the one that the directory's config names.")
]

_STARTER = """\
# What sandboxes of this template are made of. Build it with `sandpit template build`.
FROM {image}

# RUN apt-get update && apt-get install -y cowsay
# COPY . /home/user/app
"""


@app.command()
def init(path: Root = Path()) -> None:
    """Write a Dockerfile to begin with."""
    target = path / "sandpit.Dockerfile"
    if target.exists():
        raise CliError(f"{target} is there already", "edit it, and run `sandpit template build`")
    target.write_text(_STARTER.format(image="e2bdev/base"))
    typer.echo(f"Wrote {target}. Now run `sandpit template build`.")


@app.command()
def build(
    template: Template = None, path: Root = Path(), dockerfile: Dockerfile = None, name: Name = None, cmd: Command = None,
    ready_cmd: Ready = None, cpu_count: Cpus = None, memory_mb: Memory = None, config: Config = None,
    no_cache: NoCache = False, build_arg: BuildArg = None,
) -> None:  # fmt: skip
    """Build a template of a Dockerfile, and write down which one it is: the next build replaces it."""
    from sandpit.cli.templates import config as templateconfig

    found = templateconfig.find(path, config)
    known = templateconfig.load(found) if found is not None else templateconfig.TemplateConfig()
    file = templateconfig.dockerfile(path, dockerfile, known)
    settings = replace(
        known,
        template_id=template or known.template_id,
        template_name=name or known.template_name,
        dockerfile=str(file.relative_to(path)) if file.is_relative_to(path) else str(file),
        start_cmd=cmd or known.start_cmd,
        ready_cmd=ready_cmd or known.ready_cmd,
        cpu_count=cpu_count or known.cpu_count,
        memory_mb=memory_mb or known.memory_mb,
    )
    settings.template_id = _build(path, file, settings, _pairs(build_arg or []), force=no_cache)
    target = found or path / ("e2b.toml" if file.name == "e2b.Dockerfile" else "sandpit.toml")
    templateconfig.save(target, settings)
    typer.echo(f"Wrote {target}.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The template's name, with a tag if you want one: name:tag.")],
    path: Root = Path(), dockerfile: Dockerfile = None, cmd: Command = None, ready_cmd: Ready = None,
    cpu_count: Cpus = None, memory_mb: Memory = None, no_cache: NoCache = False, build_arg: BuildArg = None,
) -> None:  # fmt: skip
    """Build a template of a Dockerfile under a name; no config file is read or written."""
    from sandpit.cli.templates import config as templateconfig

    file = templateconfig.dockerfile(path, dockerfile, templateconfig.TemplateConfig())
    settings = templateconfig.TemplateConfig(
        template_name=name, start_cmd=cmd, ready_cmd=ready_cmd, cpu_count=cpu_count, memory_mb=memory_mb
    )
    _build(path, file, settings, _pairs(build_arg or []), force=no_cache)


@app.command("list")
def list_templates(as_json: Json = False) -> None:
    """List the templates that sandboxes can be made of."""
    import json

    from sandpit.cli.templates.api import TemplateApi

    with TemplateApi() as api:
        found = api.templates()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Template ID", "Names", "vCPUs", "MiB", "Build", "Access", "Created", box=None, pad_edge=False)
    for one in found:
        access = "public" if one["public"] else "team"
        table.add_row(
            one["templateID"], ", ".join(one["aliases"]), str(one["cpuCount"]), str(one["memoryMB"]), one["buildStatus"],
            access, one["createdAt"][:10],
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def delete(template: Template = None, path: Root = Path(), config: Config = None, yes: Yes = False) -> None:
    """Delete a template, and the directory's config if that names it. Sandboxes that run go on."""
    from sandpit.cli.templates.api import TemplateApi

    wanted, found = _which(template, path, config)
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete template {wanted}?", abort=True)
    with TemplateApi() as api:
        api.call("DELETE", f"/templates/{_quoted(wanted)}")
    if found is not None:
        found.unlink()
    typer.echo(f"Deleted template {wanted}.")


@app.command()
def publish(template: Template = None, path: Root = Path(), config: Config = None) -> None:
    """Let other teams make sandboxes of a template."""
    _set_public(_which(template, path, config)[0], public=True)


@app.command()
def unpublish(template: Template = None, path: Root = Path(), config: Config = None) -> None:
    """Keep a template to its team."""
    _set_public(_which(template, path, config)[0], public=False)


def _set_public(template: str, *, public: bool) -> None:
    from sandpit.cli.templates.api import TemplateApi

    with TemplateApi() as api:
        names = api.call("PATCH", f"/v2/templates/{_quoted(template)}", {"public": public})["names"]
    typer.echo(
        f"Published as {', '.join(names) or template}." if public else f"Template {template} is its team's alone."
    )


def _which(template: str | None, path: Path, config: Path | None) -> tuple[str, Path | None]:
    """The template that is meant, and the config file if it came from there. Raises: CliError."""
    from sandpit.cli.templates import config as templateconfig

    if template is not None:
        return template, None
    found = templateconfig.find(path, config)
    known = templateconfig.load(found) if found is not None else None
    if known is None or not (known.template_id or known.template_name):
        raise CliError("no template is named", "give its name or id; see `sandpit template list`")
    return known.template_id or str(known.template_name), found


def _build(path: Path, file: Path, settings: TemplateConfig, arguments: dict[str, str], *, force: bool) -> str:
    """Returns the template's id. Raises: CliError when the build fails."""
    from sandpit.cli.context import Context
    from sandpit.cli.templates import dockerfile
    from sandpit.cli.templates.api import TemplateApi

    plan = dockerfile.read(file.read_text(), str(file), arguments)
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}", err=True)
    context = Context(path)
    with TemplateApi() as api:
        wanted = settings.template_id or settings.template_name or f"template-{_random()}"
        if settings.template_id and settings.template_name and not _is_there(api, settings.template_id):
            wanted = settings.template_name
        template_id, build_id = api.request(wanted, settings.cpu_count, settings.memory_mb)
        typer.echo(f"Template {template_id}, build {build_id}")
        body: dict[str, Any] = {
            "fromImage": plan.image,
            "steps": api.upload(template_id, plan, context, str(file), typer.echo),
            "startCmd": settings.start_cmd or plan.start_cmd,
            "readyCmd": settings.ready_cmd,
            "force": force,
        }
        api.call("POST", f"/v2/templates/{template_id}/builds/{build_id}", body)
        status = api.follow(template_id, build_id, _say)
    if status["status"] == "error":
        raise CliError(f"the build failed: {status['reason']['message']}")
    name = settings.template_name or template_id
    typer.echo(f'Template {template_id} is ready. Start a sandbox of it:  Sandbox.create("{name}")')
    return template_id


def _is_there(api: TemplateApi, template_id: str) -> bool:
    return any(one["templateID"] == template_id or template_id in one["aliases"] for one in api.templates())


def _say(entry: dict[str, Any]) -> None:
    if entry["level"] != "debug":
        typer.echo(entry["message"], err=entry["level"] == "error")


def _pairs(arguments: list[str]) -> dict[str, str]:
    for argument in arguments:
        if "=" not in argument:
            raise CliError(f"--build-arg {argument} has no value", "write NAME=VALUE")
    return dict(argument.split("=", 1) for argument in arguments)


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


def _random() -> str:
    import secrets

    return secrets.token_hex(4)
