# Generated from _async/terminal.py by scripts/make_sync: change that one.
"""`sandbox.terminal` (2024) and `sandbox.pty`: interactive terminals."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from sandpit.sdk import wire
from sandpit.sdk._sync._concurrency import Outcome
from sandpit.sdk._sync.running import Ended, Running, kill, tell
from sandpit.sdk.errors import SandboxException, TerminalException, TimeoutException
from sandpit.sdk.models import EnvVars, TerminalOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._sync.link import Link
    from sandpit.sdk._sync.sandbox import Sandbox

_ENV = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class Terminal:
    """A terminal in the sandbox."""

    def __init__(self, link: Link, running: Running, terminal_id: str, screen: _Screen) -> None:
        self._link, self._running, self._terminal_id, self._screen = link, running, terminal_id, screen

    @property
    def terminal_id(self) -> str:
        """The id that was given to `start`, or made up."""
        return self._terminal_id

    @property
    def pid(self) -> int:
        """The number of the process in it."""
        return self._running.pid

    @property
    def output(self) -> TerminalOutput:
        """What it has shown so far."""
        return self._screen.output

    @property
    def data(self) -> str:
        """What it has shown so far."""
        return self.output.data

    @property
    def finished(self) -> Outcome[TerminalOutput]:
        """Its end: `done()`, `result()`."""
        return self._screen.finished

    @property
    def exit_code(self) -> int | None:
        """None while it is open; -1 after a signal."""
        return self._screen.exit_code

    def wait(self, timeout: float | None = None) -> TerminalOutput:
        """Wait until the process in it ends. Raises: TimeoutException: it goes on; SandboxException."""
        try:
            return self.finished.result(timeout)
        except TimeoutError as error:
            if isinstance(error, SandboxException):
                raise
            raise TimeoutException(f"terminal {self.pid} has not ended within {timeout:g} s; it goes on") from None

    def send_data(self, data: str | bytes, timeout: float | None = 60) -> None:
        """Type into it. Raises: TerminalException, TimeoutException."""
        self._running.write("pty", data, timeout)

    def resize(self, cols: int, rows: int, timeout: float | None = 60) -> None:
        """Change its size, in characters. Raises: TerminalException, TimeoutException."""
        message = {"process": {"pid": self.pid}, "pty": {"size": {"cols": cols, "rows": rows}}}
        self._link.rpc("process.Process/Update", message, TerminalException, timeout)

    def kill(self, timeout: float | None = 60) -> None:
        """End the process in it with SIGKILL; return when it has ended. Raises: TimeoutException."""
        if not self.finished.done():
            kill(self._link, self.pid, TerminalException, timeout)
            self.wait(timeout)

    def disconnect(self) -> None:
        """Follow it no more; it goes on, and `pty.connect(pid)` finds it again."""
        self._running.stop()


class _Screen:
    """Collects what a terminal shows."""

    def __init__(self, link: Link, on_data: Callable[[str], Any] | None, on_exit: Callable[[], Any] | None) -> None:
        self._link, self._on_data, self._on_exit = link, on_data, on_exit
        self._decoder = wire.text_decoder()
        self.output = TerminalOutput()
        self.exit_code: int | None = None
        self.finished: Outcome[TerminalOutput] = Outcome()

    def data(self, kind: str, data: bytes) -> None:
        if text := self._decoder.decode(data, False):
            self.output.data += text
            tell(self._link, self._on_data, text)

    def ended(self, end: Ended) -> None:
        self.exit_code = end.exit_code
        tell(self._link, self._on_exit)
        self.finished.set_result(self.output)

    def failed(self, error: SandboxException) -> None:
        self.finished.set_exception(error)


class TerminalManager:
    """Starts terminals."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def start(
        self,
        on_data: Callable[[str], Any] | None = None,
        cols: int = 80,
        rows: int = 24,
        cwd: str = "",
        terminal_id: str | None = None,
        on_exit: Callable[[], Any] | None = None,
        cmd: str | None = None,
        env_vars: EnvVars | None = None,
        timeout: float | None = 60,
        user: str | None = None,
    ) -> Terminal:
        """Open a terminal with a login shell, or with a command, at whose end it ends.

        `on_data`: called with what it shows, control sequences included. `cols`, `rows`: its size in characters.
        `cwd`: else the sandbox's. `env_vars`: on top of the sandbox's. `timeout`: seconds for the start.
        `user`: a Linux user, else the template's. Raises: TerminalException, TimeoutException.
        """
        sandbox = self._sandbox
        screen = _Screen(sandbox.link, on_data, on_exit)
        terminal_id = terminal_id or secrets.token_hex(6)
        args = ["-i", "-l"] if cmd is None else ["-i", "-l", "-c", cmd]
        envs = {**_ENV, **sandbox.process_env(env_vars)}
        message = {
            "process": {"cmd": "/bin/bash", "args": args, "envs": envs, **sandbox.process_cwd(cwd)},
            "pty": {"size": {"cols": cols, "rows": rows}},
            "tag": terminal_id,
        }
        running = Running.start(sandbox.link, TerminalException, message, timeout, user)
        running.follow(screen)
        return Terminal(sandbox.link, running, terminal_id, screen)

    create = start
    """The current SDKs' name."""

    def connect(
        self, pid: int, on_data: Callable[[str], Any] | None = None, on_exit: Callable[[], Any] | None = None,
        timeout: float | None = 60,
    ) -> Terminal:  # fmt: skip
        """Follow a terminal that is open already; what it showed earlier is gone. Raises: NotFoundException."""
        link = self._sandbox.link
        screen = _Screen(link, on_data, on_exit)
        running = Running.connect(link, TerminalException, {"pid": pid}, timeout)
        running.follow(screen)
        return Terminal(link, running, str(pid), screen)

    def kill(self, pid: int, timeout: float | None = 60) -> bool:
        """End the process in a terminal with SIGKILL. False if there is none of this number."""
        return kill(self._sandbox.link, pid, TerminalException, timeout)
