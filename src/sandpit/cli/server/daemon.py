"""`sandpit up` and `sandpit down`: the server in the background."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import sandpit
from sandpit.cli.errors import CliError
from sandpit.cli.server.local import Process, address, control, find_process, load_settings, need_root, read_state
from sandpit.lib import programs
from sandpit.lib.private import guarded
from sandpit.server.places import log_file, state_file

if TYPE_CHECKING:
    from sandpit.server.settings import Settings

_PAUSE = 0.05


def up(timeout: float, *, refresh: bool = False) -> None:
    """Start the server unless it runs, and wait until it answers. Raises: CliError with the end of its log.

    One that started before Sandpit's code or templates last changed is restarted if `refresh` says so.
    """
    settings = load_settings()
    need_root("starting the server")
    if (process := find_process(settings)) is not None:
        try:
            state = _await_ready(settings, process.pid, None, timeout)
            outdated = _is_outdated(settings)
            if not (outdated and refresh):
                _tell("running already", state)
                if outdated:
                    typer.echo("  It is older than Sandpit's files: `sandpit up --refresh` restarts it")
                return
            _stop(settings, process, sandboxes=False, timeout=timeout)
        finally:
            process.close()
    started = time.monotonic()
    _, state = _start(settings, timeout, {})
    _tell(f"started in {time.monotonic() - started:.1f} s", state)


def warm_up(timeout: float) -> None:
    """Wait until the pool has a sandbox of every template; when that takes too long, say so and go on."""
    settings = load_settings()
    if settings.pool.size == 0:
        return
    started = time.monotonic()
    told: set[str] = set()
    while time.monotonic() < started + timeout:
        status = control(settings, "GET", "/status")
        ready = {t["template"] for t in status["templates"] if status["sandboxes"]["ready"].get(t["build"])}
        for name in sorted(ready - told):
            typer.echo(f"  {name} is ready ({time.monotonic() - started:.0f} s)")
        told |= ready
        missing = {t["template"] for t in status["templates"]} - ready
        if not missing:
            return
        time.sleep(0.2)
    typer.echo(f"  not ready yet: {', '.join(sorted(missing))}; see {log_file(settings)}")


def _is_outdated(settings: Settings) -> bool:
    """Whether files of Sandpit, or the set of template builds, are newer than the running server."""
    since = state_file(settings).stat().st_mtime
    changed = [path for path in Path(sandpit.__file__).parent.rglob("*.py") if path.stat().st_mtime > since]
    images = settings.data_dir / "images"
    return bool(changed) or (images.exists() and images.stat().st_mtime > since)


def _start(
    settings: Settings, timeout: float, environment: dict[str, str]
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a server and wait until it answers. Raises: CliError with the end of its log."""
    child, offset = _spawn(settings, environment)
    try:
        return child, _await_ready(settings, child.pid, child, timeout)
    except CliError as error:
        _end_child(child)
        raise CliError(f"{error.message}\n{_log_tail(settings, offset)}") from None
    except BaseException:  # interrupted: a server that nobody has been told about must not stay
        _end_child(child)
        raise


def _tell(what: str, state: dict[str, Any]) -> None:
    typer.echo(f"Sandpit {state['version']} {what} (pid {state['pid']})")
    typer.echo(f"  API        {address(state, 'api')}\n  sandboxes  {address(state, 'edge')}")


def _spawn(settings: Settings, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server in a session of its own. Returns it, and where its part of the log begins."""
    guarded(settings.data_dir)
    log = log_file(settings)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        offset = os.fstat(descriptor).st_size
        child = programs.spawn(
            # -P: whatever lies in the directory that this was called from is not to be imported by root's server
            *(sys.executable, "-P", "-m", "sandpit.cli", "server", "--log-file"),
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            env=_without_working_directory(settings) | environment,
            new_session=True,
        )
    finally:
        os.close(descriptor)
    return child, offset


def _without_working_directory(settings: Settings) -> dict[str, str]:
    """This environment, with the paths in it absolute: the server's working directory is the root."""
    absolute = {"SANDPIT_DATA_DIR": str(settings.data_dir), "SANDPIT_RUN_DIR": str(settings.run_dir)}
    for name in ("SANDPIT_CONFIG", "PYTHONPATH"):
        if value := os.environ.get(name):
            absolute[name] = os.pathsep.join(str(Path(part).absolute()) for part in value.split(os.pathsep) if part)
    return dict(os.environ) | absolute


def _await_ready(settings: Settings, pid: int, child: subprocess.Popen[bytes] | None, timeout: float) -> dict[str, Any]:
    """Wait for the server's state and its answer on the control socket. Raises: CliError."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if child is not None and child.poll() is not None:
            raise CliError(f"the server ended with status {child.returncode}; the end of {log_file(settings)}:")
        try:
            state = read_state(settings)
            if state["pid"] == pid:
                control(settings, "GET", "/status")
                return state
        except (OSError, ValueError, KeyError):
            pass  # not yet: nothing written, a predecessor's state, or nobody listening
        time.sleep(_PAUSE)
    raise CliError(f"the server (pid {pid}) was not ready after {timeout:g} s; the end of {log_file(settings)}:")


def _end_child(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _log_tail(settings: Settings, offset: int, lines: int = 20) -> str:
    with log_file(settings).open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(offset if offset <= size else 0, size - 64 * 1024))  # it may have been rotated meanwhile
        words = log.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join(f"  | {line}" for line in words) or "  | (nothing)"


def down(*, sandboxes: bool, timeout: float) -> None:
    """Stop the server, and all sandboxes if told to. Raises: CliError."""
    settings = load_settings()
    need_root("stopping the server")
    process = find_process(settings)
    if process is None:
        if not sandboxes:
            typer.echo("Sandpit is not running")
            return
        process = _serve_to_end_sandboxes(settings, timeout)
    try:
        _stop(settings, process, sandboxes=sandboxes, timeout=timeout)
    finally:
        process.close()
    typer.echo(f"Sandpit stopped (pid {process.pid}); " + ("all sandboxes ended" if sandboxes else "sandboxes go on"))


def _stop(settings: Settings, process: Process, *, sandboxes: bool, timeout: float) -> None:
    try:
        control(settings, "POST", f"/stop?sandboxes={'true' if sandboxes else 'false'}")
    except OSError as error:
        if sandboxes:
            raise CliError(
                f"the server (pid {process.pid}) cannot be told to end its sandboxes: {error}",
                "stop it with `sandpit down`, then call `sandpit down --sandboxes` again",
            ) from None
        process.terminate()
    if not process.wait(timeout):
        raise CliError(
            f"the server (pid {process.pid}) has not ended within {timeout:g} s",
            f"look at {log_file(settings)}; `kill -9 {process.pid}` is safe: the next server finds its sandboxes",
        )


def _serve_to_end_sandboxes(settings: Settings, timeout: float) -> Process:
    """Sandboxes outlive servers: one more, on ports of its own and without a pool, finds them and keeps the records."""
    quiet = {"SANDPIT_API_PORT": "0", "SANDPIT_EDGE_PORT": "0", "SANDPIT_TLS": "false", "SANDPIT_POOL__SIZE": "0"}
    child, _ = _start(settings, timeout, quiet)
    return Process(child.pid, os.pidfd_open(child.pid))
