"""`sandpit status`, `sandpit env` and `sandpit openapi`."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

import typer

from sandpit.cli.errors import CliError
from sandpit.cli.server.local import NOT_ANSWERING, NOT_RUNNING, address, api_key, control, load_settings, running_state
from sandpit.server.certificates import located

if TYPE_CHECKING:
    from sandpit.server.settings import Settings

_GIB = 1 << 30
_DISTURBING = ("E2B_DEBUG", "E2B_SECURE")
"""Variables that send clients elsewhere (current-protocol 1.1); for those of 2024 any value does (legacy-protocol 1.2)."""


def status(*, as_json: bool) -> None:
    """Print the server's state. Raises: CliError with status 3 or 4 when none answers."""
    settings = load_settings()
    try:
        running_state(settings)
        answer: dict[str, Any] = control(settings, "GET", "/status")
    except PermissionError:
        raise CliError("the control socket is for the server's user alone", "run it with sudo", status=77) from None
    except OSError as error:
        raise CliError(f"the server does not answer: {error}", "see its log", status=NOT_ANSWERING) from None
    except CliError as error:
        if as_json and error.status in (NOT_RUNNING, NOT_ANSWERING):
            typer.echo(json.dumps({"running": error.status == NOT_ANSWERING, "ready": False}))
        raise
    if as_json:
        addresses = answer["addresses"] | {part: address(answer, part) for part in ("api", "edge")}
        typer.echo(json.dumps({"running": True, "ready": True} | answer | {"addresses": addresses}, indent=1))
        return
    typer.echo(_text(answer, str(settings.data_dir)))


def _text(answer: dict[str, Any], data_dir: str) -> str:
    counts = answer["sandboxes"]
    lines = [
        f"Sandpit {answer['version']} is running (pid {answer['pid']})",
        f"  API        {address(answer, 'api')}",
        f"  sandboxes  {address(answer, 'edge')}",
        *([f"  HTTPS      {answer['addresses']['tls']}"] if "tls" in answer["addresses"] else []),
        f"  data       {data_dir}",
        f"  disk       {_disk(answer['disk'])}",
        f"  running    {counts['running']} sandboxes",
        f"  share      {_share(answer['share'])}",
        *([f"  full       {answer['full']}"] if answer["full"] else []),
        f"  runtimes   {', '.join(f'{name} ({digest[:12]})' for name, digest in answer['runtimes'].items())}",
        "  templates",
    ]
    for template in answer["templates"] or [{"template": "none: build them with ./quickstart", "build": ""}]:
        ready = counts["ready"].get(template["build"])
        about = "" if ready is None else f"{template['runtime']:8} {ready} ready in the pool"
        lines.append(f"    {template['template']:22} {about}".rstrip())
    if counts.get("overdue"):
        lines.append(
            f"  overdue    {counts['overdue']} sandboxes, which should have ended or been paused: see the server's log"
        )
        lines += [f"    {it['sandbox_id']:22} {it['state']:8} {it['seconds']:.0f} s" for it in answer["overdue"]]
    return "\n".join(lines)


def _share(share: dict[str, Any]) -> str:
    cpus = f"{share['cpusUsed']:g} of {share['cpus']:g} processors in use"
    return f"{cpus}, {share['memoryFreeMB']:g} of {share['memoryMB']:g} MiB of memory left"


def _disk(room: dict[str, int]) -> str:
    """The server's disk space, of which some is kept free."""
    free, reserve, promised = (room[name] / _GIB for name in ("free", "reserve", "promised"))
    full = "" if room["free"] - room["promised"] > room["reserve"] else ": FULL, nothing new is begun"
    return f"{free:.1f} GiB free, {promised:.1f} of them promised, {reserve:.1f} kept in reserve{full}"


def env(*, as_json: bool, legacy: bool = False) -> None:
    """Print the clients' settings, for a shell or as JSON. Raises: CliError; nothing is on standard output then.

    All of them for clients of every age: one that does not know a variable takes its own default instead, which is the domain of
    somebody else's service, and sends the key there. `legacy` insists on HTTPS, which the clients of 2024 need.
    """
    settings = load_settings()
    state = running_state(settings)
    if legacy and "tls" not in state["addresses"]:
        raise CliError("the server speaks no TLS, and clients of 2024 speak nothing else", "set SANDPIT_TLS=true")
    values = {
        "E2B_API_KEY": api_key(settings),
        "E2B_API_URL": address(state, "api"),
        "E2B_SANDBOX_URL": address(state, "edge"),
        **_names(settings, state),
    }
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    hidden = "SUDO_UID" in os.environ  # sudo keeps the caller's variables from us
    disturbing = [name for name in _DISTURBING if hidden or os.environ.get(name)]
    if disturbing:
        typer.echo(f"unset {' '.join(disturbing)}")
    for name, value in values.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def openapi() -> None:
    """Print the API's description."""
    from sandpit.api.app import ROUTES
    from sandpit.api.openapi import document

    typer.echo(json.dumps(document(ROUTES), indent=1))


def _names(settings: Settings, state: dict[str, Any]) -> dict[str, str]:
    """The domain, and the authorities to trust (legacy-protocol 1.4).

    Without TLS the domain is printed, too: clients that find the API by it alone then fail here, instead of going elsewhere.
    """
    tls = state["addresses"].get("tls")
    _, _, port = str(tls or state["addresses"]["edge"]).rpartition(":")
    values = {"E2B_DOMAIN": settings.public_domain(int(port))}
    if tls is not None and settings.tls_certificate is None:
        bundle = str(located(settings.data_dir, settings.tls_domain).bundle)
        values |= {"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "NODE_EXTRA_CA_CERTS": bundle}
    return values
