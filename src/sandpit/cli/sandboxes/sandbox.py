"""`sandpit sandbox`: the commands that ask the API and print."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import typer

from sandpit.cli.client import Api, Json, path_of
from sandpit.cli.errors import CliError
from sandpit.cli.output import local_time, plain, print_json, print_table
from sandpit.cli.sandboxes import choose

CONNECT_SECONDS = 300
"""How long a sandbox lives at least after a command has touched it."""
_LABELS = {
    "sandboxID": "Sandbox ID", "templateID": "Template ID", "alias": "Alias", "state": "State", "startedAt": "Started at",
    "endAt": "End at", "cpuCount": "vCPUs", "memoryMB": "RAM MiB", "diskSizeMB": "Disk MiB", "envdVersion": "Envd version",
    "allowInternetAccess": "Internet access", "lifecycle": "Lifecycle", "network": "Network", "domain": "Domain",
    "metadata": "Metadata",
}  # fmt: skip
_SECRET = ("envdAccessToken", "trafficAccessToken", "clientID")


def pairs(given: list[str], option: str) -> dict[str, str]:
    """`k=v` pairs; metadata may have several in one, with commas between. Raises: CliError."""
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CliError(f"{option} takes NAME=VALUE, got {text!r}", status=choose.MISUSE)
        found[key] = value
    return found


def metadata_pairs(given: list[str]) -> dict[str, str]:
    """`-m a=1,b=2 -m c=3`."""
    return pairs([part for text in given for part in text.split(",")], "--metadata")


def listed(
    state: str,
    metadata: list[str],
    template: str | None,
    started_after: str | None,
    order: str,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Print sandboxes. Raises: CliError."""
    wanted = _query(metadata) if metadata else None
    with Api() as api:
        found = api.sandboxes(
            limit=limit, state=state, metadata=wanted, template=template, startedAfter=started_after, order=order
        )
    if as_json:
        print_json([_shown(one) for one in found])
    elif not found:
        typer.echo("No sandboxes found")
    else:
        heads = ("SANDBOX ID", "TEMPLATE", "STARTED AT", "END AT", "STATE", "VCPUS", "RAM MIB", "METADATA")
        print_table(heads, [_row(one) for one in found])
        if limit and len(found) == limit:
            typer.echo(f"Showing the first {limit} sandboxes. Use --limit to change.", err=True)


def _row(one: Json) -> tuple[object, ...]:
    about = " ".join(f"{key}={value}" for key, value in (one.get("metadata") or {}).items())
    times = local_time(one["startedAt"]), local_time(one["endAt"])
    name = one.get("alias") or one["templateID"]
    return one["sandboxID"], name, *times, one["state"], one["cpuCount"], one["memoryMB"], about


def _query(metadata: list[str]) -> str:
    return "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in metadata_pairs(metadata).items())


def info(sandbox_id: str | None, *, as_json: bool) -> None:
    """Print one sandbox. Raises: CliError."""
    with Api() as api:
        found = _shown(api.sandbox(choose.sandbox_id(api, sandbox_id, states="running,paused")))
    if as_json:
        print_json(found)
        return
    for key in [*_LABELS, *(key for key in found if key not in _LABELS)]:
        if found.get(key) is not None:
            value = found[key]
            shown = local_time(value) if key in ("startedAt", "endAt") else plain(value)
            typer.echo(f"{_LABELS.get(key, key) + ':':17} {shown}")


def create(body: Json, *, as_json: bool) -> None:
    """Start a sandbox and print its id. Raises: CliError."""
    with Api() as api:
        made = api.call("POST", "/v2/sandboxes", body)
    if as_json:
        print_json(_shown(made))
    else:
        typer.echo(made["sandboxID"])


def kill(ids: list[str], *, everything: bool, state: str, metadata: list[str], yes: bool, as_json: bool) -> None:
    """Kill some, or all that match. Raises: CliError; status 1 when one was not there."""
    if everything and ids:
        raise CliError("ids and --all contradict each other", "give one of them", status=choose.MISUSE)
    with Api() as api:
        if everything:
            wanted = _query(metadata) if metadata else None
            ids = [one["sandboxID"] for one in api.sandboxes(state=state, metadata=wanted)]
            if ids:
                choose.confirm(f"Kill {len(ids)} sandboxes?", yes=yes)
        elif not ids:
            ids = [choose.sandbox_id(api, None, states="running,paused")]
        done = {one: _kill(api, one) for one in ids}
    _tell_killed(done, everything=everything, as_json=as_json)
    if not everything and not all(done.values()):
        raise typer.Exit(1)


def _tell_killed(done: dict[str, bool], *, everything: bool, as_json: bool) -> None:
    if as_json:
        print_json([{"sandboxID": name, "killed": killed} for name, killed in done.items()])
    elif everything:
        typer.echo(f"Killed {sum(done.values())} sandboxes" if done else "No sandboxes to kill")
    else:
        for name, killed in done.items():
            text = f"Sandbox {plain(name)} has been killed" if killed else f"Sandbox {plain(name)} wasn't found"
            typer.echo(text, err=not killed)


def _kill(api: Api, sandbox_id: str) -> bool:
    try:
        api.call("DELETE", path_of(sandbox_id))
    except CliError as error:
        if error.code == 404:
            return False
        raise
    return True


def pause(sandbox_id: str | None, *, memory: bool, as_json: bool) -> None:
    """Put a sandbox away; one that is paused already stays so. Raises: CliError."""
    with Api() as api:
        name = choose.sandbox_id(api, sandbox_id)
        try:
            api.call("POST", f"{path_of(name)}/pause", {"memory": memory})
        except CliError as error:
            if error.code != 409:
                raise
            _tell(name, "is already paused", as_json=as_json, paused=True)
            return
    _tell(name, "has been paused", as_json=as_json, paused=True)


def resume(sandbox_id: str | None, timeout: int, *, as_json: bool) -> None:
    """Bring a paused sandbox back. Raises: CliError."""
    with Api() as api:
        name = choose.sandbox_id(api, sandbox_id, states="paused")
        answer = api.connect(name, timeout)
    if as_json:
        print_json(_shown(answer))
    else:
        typer.echo(f"Sandbox {name} has been resumed")


def fork(sandbox_id: str | None, count: int, timeout: int, *, as_json: bool) -> None:
    """Copy a running sandbox with all that runs in it; prints the copies' ids. Raises: CliError."""
    with Api() as api:
        name = choose.sandbox_id(api, sandbox_id)
        results = api.call("POST", f"{path_of(name)}/fork", {"count": count, "timeout": timeout})
    if as_json:
        print_json([{"sandbox": _shown(one["sandbox"])} if "sandbox" in one else one for one in results])
    failed = [one["error"]["message"] for one in results if "error" in one]
    for one in results:
        if "sandbox" in one and not as_json:
            typer.echo(one["sandbox"]["sandboxID"])
    if failed:
        raise CliError(f"{len(failed)} of {count} copies failed: {failed[0]}")


def _tell(name: str, what: str, *, as_json: bool, **values: Any) -> None:
    if as_json:
        print_json({"sandboxID": name, **values})
    else:
        typer.echo(f"Sandbox {name} {what}")


def _shown(one: Json) -> Json:
    """A sandbox without what opens it: output gets copied into chats and tickets."""
    return {key: value for key, value in one.items() if key not in _SECRET}
