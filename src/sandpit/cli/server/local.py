"""The server of this machine, seen from outside: its settings, its process, its control socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sandpit.cli.errors import CliError
from sandpit.server.places import control_socket, lock_file, state_file

if TYPE_CHECKING:
    from sandpit.server.settings import Settings

NOT_RUNNING = 3
"""Exit status for a service that is not running (Linux Standard Base, "Init Script Actions")."""
NOT_ANSWERING = 4
_CONTROL_SECONDS = 10.0


def load_settings() -> Settings:
    """The settings. Raises: CliError with the setting's name when one is wrong."""
    import tomllib

    from pydantic import ValidationError

    from sandpit.server.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}" for item in error.errors()
        )
        raise CliError(wrong, "correct the SANDPIT_* variable or the line in the settings file", status=2) from None
    except (OSError, tomllib.TOMLDecodeError, ValueError) as error:  # ValueError: a variable that should hold JSON
        raise CliError(f"the settings cannot be read: {error}", "correct them", status=2) from None
    settings.data_dir, settings.run_dir = settings.data_dir.absolute(), settings.run_dir.absolute()
    return settings


def need_root(what: str) -> None:
    """Raises: CliError unless this process is root's."""
    if os.geteuid() != 0:
        raise CliError(f"{what} needs root: sandboxes have namespaces, links and mounts", "run it with sudo", status=77)


@dataclass(frozen=True, slots=True)
class Process:
    """A server's process, by a descriptor that cannot come to mean another process."""

    pid: int
    descriptor: int

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self.descriptor)

    def terminate(self) -> None:
        """Ask it to stop. Sandboxes go on."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGTERM)

    def wait(self, timeout: float) -> bool:
        """Whether it ended within `timeout` seconds."""
        import select

        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))


def find_process(settings: Settings) -> Process | None:
    """The server that has this data directory, also while it starts or stops. The caller closes the result."""
    with contextlib.suppress(FileNotFoundError, PermissionError, ValueError, KeyError, TypeError):
        pid = int(read_state(settings)["pid"])
        if process := _open_process(pid, settings):
            return process
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if b"sandpit" in (entry / "cmdline").read_bytes() and (process := _open_process(int(entry.name), settings)):
                return process
    return None


def _open_process(pid: int, settings: Settings) -> Process | None:
    """The process, if it is a server of this data directory: pids are used again, so its lock file is the proof."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return None
    if _holds(pid, lock_file(settings)) and not _ended(descriptor):
        return Process(pid, descriptor)
    os.close(descriptor)
    return None


def _holds(pid: int, file: Path) -> bool:
    try:
        wanted = file.stat()
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found = link.stat()
                if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                    return True
    except OSError:
        return False
    return False


def _ended(descriptor: int) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def read_state(settings: Settings) -> dict[str, Any]:
    """What the server wrote when it was ready. Raises: FileNotFoundError, PermissionError, ValueError."""
    state: dict[str, Any] = json.loads(state_file(settings).read_text())
    return state


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def control(settings: Settings, method: str, path: str, body: object = None) -> Any:
    """Ask the running server. Returns its JSON answer, None if it has no body.

    Raises: OSError when none answers, CliError with the server's words when it refuses.
    """
    connection = _UnixConnection(control_socket(settings), _CONTROL_SECONDS)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"the control socket answered nonsense: {error!r}") from error
    finally:
        connection.close()
    if answer.status >= 500:
        raise ConnectionError(f"the control socket answered {answer.status}")
    answered: Any = json.loads(text) if text else None
    if answer.status >= 400:
        raise CliError(answered["message"])
    return answered


def running_state(settings: Settings) -> dict[str, Any]:
    """The running server's state. Raises: CliError with status 3 or 4 when there is none that answers."""
    process = find_process(settings)
    if process is None:
        if not os.access(settings.data_dir, os.X_OK) and settings.data_dir.exists():
            raise CliError(f"{settings.data_dir} may not be read by this user", "run it with sudo", status=77)
        raise CliError(
            f"no server is running with {settings.data_dir}", "start it with `sandpit up`", status=NOT_RUNNING
        )
    process.close()
    try:
        return read_state(settings)
    except FileNotFoundError:
        raise CliError(
            f"the server (pid {process.pid}) is not ready yet, or is stopping", "try again soon", status=NOT_ANSWERING
        ) from None
    except PermissionError:
        raise CliError(f"{state_file(settings)} may not be read by this user", "run it with sudo", status=77) from None


def address(state: dict[str, Any], part: str) -> str:
    """The URL of `api` or `edge` for clients on this machine: they cannot connect to an unspecified address."""
    host, _, port = str(state["addresses"][part]).removeprefix("http://").rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def api_key(settings: Settings) -> str:
    """The first API key. Raises: CliError when it cannot be read."""
    try:
        return settings.key_file.read_text().strip()
    except FileNotFoundError:
        if not settings.authentication:
            return "e2b_" + 40 * "0"  # clients insist on one; the server does not
        raise CliError(
            f"{settings.key_file} is gone",
            "restart the server, which makes another (`sandpit down`, `sandpit up`), or use E2B_API_KEY",
        ) from None
    except PermissionError:
        raise CliError(f"{settings.key_file} is for its owner alone", "run it with sudo", status=77) from None


def call_api(settings: Settings, method: str, path: str, body: object = None) -> Any:
    """Call the server's REST API with the first key. Returns JSON, None without a body. Raises: CliError."""
    url = urlsplit(address(running_state(settings), "api"))
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
    headers = {"X-API-Key": api_key(settings), "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise CliError(f"the API at {url.geturl()} does not answer: {error}", "see `sandpit status`") from None
    finally:
        connection.close()
    if answer.status >= 400:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            raise CliError(json.loads(text)["message"])
        raise CliError(f"the API answered {answer.status}: {text.decode(errors='replace')[:500]}")
    return json.loads(text) if text else None
