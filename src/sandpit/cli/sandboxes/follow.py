"""`sandpit sandbox logs` and `metrics`: what was, and with --follow what comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from sandpit.cli.client import Api, Json, path_of
from sandpit.cli.errors import CliError
from sandpit.cli.output import local_time, plain
from sandpit.cli.sandboxes import choose

_POLL_SECONDS = 0.4
_PAGE = 1000
_LEVELS = ("debug", "info", "warn", "error")
_COLOURS = {"debug": "bright_black", "info": "green", "warn": "yellow", "error": "red"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def logs(sandbox_id: str | None, level: str, loggers: str, *, follow: bool, as_json: bool) -> None:
    """Print a sandbox's log, also of one that has ended. Raises: CliError."""
    if level.lower() not in _LEVELS:
        raise CliError(f"--level must be DEBUG, INFO, WARN or ERROR, got {level!r}", status=choose.MISUSE)
    with Api() as api:
        name = choose.sandbox_id(api, sandbox_id, states="running,paused")
        reader = _Log(api, name, level.lower(), loggers)
        found = _print(reader, as_json=as_json)
        if not found and not _is_there(api, name) and not reader.any():
            raise CliError(f"sandbox '{plain(name)}' has no log: it was never there, or long ago", "check the id")
        while follow:
            there = _is_there(api, name)
            _print(reader, as_json=as_json)
            if not there:
                typer.echo("Stopped printing logs: the sandbox has ended", err=True)
                return
            time.sleep(_POLL_SECONDS)


class _Log:
    """Reads on where it has stopped."""

    def __init__(self, api: Api, sandbox_id: str, level: str, loggers: str) -> None:
        self._api = api
        self._path = f"/v2{path_of(sandbox_id)}/logs"
        self._level, self._loggers = level, loggers or None
        self._cursor = 0
        self._seen: set[str] = set()
        """What was read of the cursor's millisecond, which is asked for again: more may have come in it."""

    def __iter__(self) -> Iterator[Json]:
        while True:
            page: list[Json] = self._api.call(
                "GET", self._path, cursor=self._cursor, limit=_PAGE, level=self._level, loggers=self._loggers
            )["logs"]
            fresh = [line for line in page if json.dumps(line) not in self._seen]
            for line in fresh:
                self._note(line)
                yield line
            if len(page) < _PAGE or not fresh:
                return

    def _note(self, line: Json) -> None:
        milliseconds = (datetime.fromisoformat(line["timestamp"]) - _EPOCH) // timedelta(milliseconds=1)
        if milliseconds != self._cursor:
            self._cursor = milliseconds
            self._seen.clear()
        self._seen.add(json.dumps(line))

    def any(self) -> bool:
        """Whether there is a line at all, at whatever level."""
        return bool(self._api.call("GET", self._path, limit=1)["logs"])


def _is_there(api: Api, sandbox_id: str) -> bool:
    try:
        api.sandbox(sandbox_id)
    except CliError as error:
        if error.code == 404:
            return False
        raise
    return True


def _print(lines: _Log, *, as_json: bool) -> bool:
    found = False
    for line in lines:
        found = True
        typer.echo(_json_line(line) if as_json else _pretty_line(line))
    return found


def _json_line(line: Json) -> str:
    fields: dict[str, Any] = dict(line["fields"])
    head = {"timestamp": line["timestamp"], "level": line["level"], "logger": fields.pop("logger", "")}
    return json.dumps({**head, "message": line["message"], **{k: v for k, v in fields.items() if k not in head}})


def _pretty_line(line: Json) -> str:
    fields = dict(line["fields"])
    when = datetime.fromisoformat(line["timestamp"]).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    level = typer.style(f"{line['level'].upper():5}", fg=_COLOURS.get(line["level"]))
    logger = f"{plain(fields.pop('logger', '')):10}"
    about = "  ".join(f"{typer.style(plain(key) + '=', dim=True)}{_value(value)}" for key, value in fields.items())
    return f"{when}Z {level} {logger} {plain(line['message'])}  {about}".rstrip()


def _value(value: object) -> str:
    text = plain(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "\n" in text or not text else text


def metrics(sandbox_id: str | None, *, follow: bool, as_json: bool) -> None:
    """Print a sandbox's samples. Raises: CliError."""
    with Api() as api:
        name = choose.sandbox_id(api, sandbox_id)
        path, start, last = f"{path_of(name)}/metrics", None, ""
        while True:
            try:
                samples = api.call("GET", path, start=start)
            except CliError as error:
                if error.code != 404 or not last:
                    raise
                typer.echo("Stopped printing metrics: the sandbox has ended", err=True)
                return
            for sample in samples:
                if sample["timestamp"] > last:
                    last, start = sample["timestamp"], sample["timestampUnix"]
                    typer.echo(json.dumps(sample) if as_json else _sample_line(sample))
            if not follow:
                return
            time.sleep(_POLL_SECONDS)


def _sample_line(sample: Json) -> str:
    mib = {key: round(sample[key] / (1 << 20)) for key in ("memUsed", "memTotal", "diskUsed", "diskTotal")}
    return (
        f"{local_time(sample['timestamp'])}  CPU {sample['cpuUsedPct']:5.1f} % of {sample['cpuCount']} cores"
        f"   memory {mib['memUsed']:5} of {mib['memTotal']} MiB   disk {mib['diskUsed']:5} of {mib['diskTotal']} MiB"
    )
