"""`sandbox.terminal` (2024) and `sandbox.pty`: interactive terminals."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from sandpit.sdk import wire
from sandpit.sdk._async._concurrency import Outcome
from sandpit.sdk._async.running import Ended, Running, kill, tell
from sandpit.sdk.errors import SandboxException, TerminalException, TimeoutException
from sandpit.sdk.models import EnvVars, TerminalOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._async.link import Link
    from sandpit.sdk._async.sandbox import AsyncSandbox

_ENV = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class AsyncTerminal:
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

    async def wait(self, timeout: float | None = None) -> TerminalOutput:
        """Wait until the process in it ends. Raises: TimeoutException: it goes on; SandboxException."""
        try:
            return await self.finished.result(timeout)
        except TimeoutError as error:
            if isinstance(error, SandboxException):
                raise
            raise TimeoutException(f"terminal {self.pid} has not ended within {timeout:g} s; it goes on") from None

    async def send_data(self, data: str | bytes, timeout: float | None = 60) -> None:
        """Type into it. Raises: TerminalException, TimeoutException."""
        await self._running.write("pty", data, timeout)

    async def resize(self, cols: int, rows: int, timeout: float | None = 60) -> None:
        """Change its size, in characters. Raises: TerminalException, TimeoutException."""
        message = {"process": {"pid": self.pid}, "pty": {"size": {"cols": cols, "rows": rows}}}
        await self._link.rpc("process.Process/Update", message, TerminalException, timeout)

    async def kill(self, timeout: float | None = 60) -> None:
        """End the process in it with SIGKILL; return when it has ended. Raises: TimeoutException."""
        if not self.finished.done():
            await kill(self._link, self.pid, TerminalException, timeout)
            await self.wait(timeout)

    async def disconnect(self) -> None:
        """Follow it no more; it goes on, and `pty.connect(pid)` finds it again."""
        await self._running.stop()


class _Screen:
    """Collects what a terminal shows."""

    def __init__(self, link: Link, on_data: Callable[[str], Any] | None, on_exit: Callable[[], Any] | None) -> None:
        self._link, self._on_data, self._on_exit = link, on_data, on_exit
        self._decoder = wire.text_decoder()
        self.output = TerminalOutput()
        self.exit_code: int | None = None
        self.finished: Outcome[TerminalOutput] = Outcome()

    async def data(self, kind: str, data: bytes) -> None:
        if text := self._decoder.decode(data, False):
            self.output.data += text
            await tell(self._link, self._on_data, text)

    async def ended(self, end: Ended) -> None:
        self.exit_code = end.exit_code
        await tell(self._link, self._on_exit)
        self.finished.set_result(self.output)

    def failed(self, error: SandboxException) -> None:
        self.finished.set_exception(error)


class AsyncTerminalManager:
    """Starts terminals."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox

    async def start(
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
    ) -> AsyncTerminal:
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
        running = await Running.start(sandbox.link, TerminalException, message, timeout, user)
        running.follow(screen)
        return AsyncTerminal(sandbox.link, running, terminal_id, screen)

    create = start
    """The current SDKs' name."""

    async def connect(
        self, pid: int, on_data: Callable[[str], Any] | None = None, on_exit: Callable[[], Any] | None = None,
        timeout: float | None = 60,
    ) -> AsyncTerminal:  # fmt: skip
        """Follow a terminal that is open already; what it showed earlier is gone. Raises: NotFoundException."""
        link = self._sandbox.link
        screen = _Screen(link, on_data, on_exit)
        running = await Running.connect(link, TerminalException, {"pid": pid}, timeout)
        running.follow(screen)
        return AsyncTerminal(link, running, str(pid), screen)

    async def kill(self, pid: int, timeout: float | None = 60) -> bool:
        """End the process in a terminal with SIGKILL. False if there is none of this number."""
        return await kill(self._sandbox.link, pid, TerminalException, timeout)
