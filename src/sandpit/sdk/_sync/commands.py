# Generated from _async/commands.py by scripts/make_sync: change that one.
"""`sandbox.commands`: commands as the current SDKs have them, with their output as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from sandpit.sdk import wire
from sandpit.sdk._sync._concurrency import Outcome
from sandpit.sdk._sync.running import Ended, Running, kill, shell, tell
from sandpit.sdk.errors import (
    CommandExitException,
    ProcessException,
    SandboxException,
    TimeoutException,
)
from sandpit.sdk.models import CommandResult, EnvVars, ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._sync.link import Link
    from sandpit.sdk._sync.sandbox import Sandbox

    OnText = Callable[[str], Any]

_GRACE_SECONDS = 10
"""What the server may take to say that it ended a command at its time limit."""


class CommandHandle:
    """A command that runs."""

    def __init__(self, running: Running, texts: _Texts, command: str) -> None:
        self._running, self._texts, self._command = running, texts, command

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return "".join(self._texts.pieces["stdout"])

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return "".join(self._texts.pieces["stderr"])

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._texts.end.exit_code if self._texts.end is not None else None

    def wait(self, timeout: float | None = None) -> CommandResult:
        """Wait until it ends. Raises: CommandExitException: with another exit code than 0; TimeoutException."""
        try:
            end = self._texts.finished.result(timeout)
        except TimeoutError as error:
            if isinstance(error, SandboxException):
                raise
            raise TimeoutException(
                f"the command has not ended within {timeout:g} s; it goes on: {self._command}"
            ) from None
        if end.exit_code != 0:
            raise CommandExitException(self._command, end.exit_code, self.stdout, self.stderr, end.error)
        return CommandResult(self.stdout, self.stderr, end.exit_code, end.error)

    def kill(self, timeout: float | None = 60) -> bool:
        """End it with SIGKILL, and its children. False if it had ended before."""
        return self._running.kill(timeout)

    def send_stdin(self, data: str | bytes, timeout: float | None = 60) -> None:
        """Write to its standard input, which it has if it was started with `stdin=True`. Raises: ProcessException."""
        self._running.write("stdin", data, timeout)

    def disconnect(self) -> None:
        """Follow it no more; it goes on."""
        self._running.stop()


class _Texts:
    """Collects output as text."""

    def __init__(self, link: Link, on_stdout: OnText | None, on_stderr: OnText | None) -> None:
        self._link = link
        self._callbacks = {"stdout": on_stdout, "stderr": on_stderr}
        self._decoders = {"stdout": wire.text_decoder(), "stderr": wire.text_decoder()}
        self.pieces: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self.end: Ended | None = None
        self.finished: Outcome[Ended] = Outcome()

    def data(self, kind: str, data: bytes, *, final: bool = False) -> None:
        if text := self._decoders[kind].decode(data, final):
            self.pieces[kind].append(text)
            tell(self._link, self._callbacks[kind], text)

    def ended(self, end: Ended) -> None:
        for kind in self._decoders:
            self.data(kind, b"", final=True)
        self.end = end
        self.finished.set_result(end)

    def failed(self, error: SandboxException) -> None:
        self.finished.set_exception(error)


class Commands:
    """Runs commands."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @overload
    def run(
        self, cmd: str, background: Literal[False] = False, envs: EnvVars | None = None, user: str | None = None,
        cwd: str | None = None, on_stdout: OnText | None = None, on_stderr: OnText | None = None,
        stdin: bool = False, timeout: float | None = 60,
    ) -> CommandResult: ...  # fmt: skip

    @overload
    def run(
        self, cmd: str, background: Literal[True], envs: EnvVars | None = None, user: str | None = None,
        cwd: str | None = None, on_stdout: OnText | None = None, on_stderr: OnText | None = None,
        stdin: bool = False, timeout: float | None = 60,
    ) -> CommandHandle: ...  # fmt: skip

    def run(
        self, cmd: str, background: bool = False, envs: EnvVars | None = None, user: str | None = None,
        cwd: str | None = None, on_stdout: OnText | None = None, on_stderr: OnText | None = None,
        stdin: bool = False, timeout: float | None = 60,
    ) -> CommandResult | CommandHandle:  # fmt: skip
        """Run a command in a login shell and wait for its end; with `background`, return a handle when it has started.

        `user`: a Linux user, else the template's. `on_stdout`, `on_stderr`: called with pieces of text. `stdin`: whether it
        gets a standard input. `timeout`: seconds; at its end the command is killed. In the background it limits the start only.
        Raises: CommandExitException, CurrentWorkingDirectoryDoesntExistException, ProcessException, TimeoutException.
        """
        sandbox = self._sandbox
        texts = _Texts(sandbox.link, on_stdout, on_stderr)
        process = {**shell(cmd), "envs": sandbox.process_env(envs), **sandbox.process_cwd(cwd or "")}
        life = None if background else timeout
        message = {"process": process, "stdin": stdin}
        running = Running.start(sandbox.link, ProcessException, message, timeout, user, life)
        running.follow(texts)
        handle = CommandHandle(running, texts, cmd)
        if background:
            return handle
        return self._result(handle, timeout)

    def _result(self, handle: CommandHandle, timeout: float | None) -> CommandResult:
        try:
            return handle.wait(None if timeout is None else timeout + _GRACE_SECONDS)
        except TimeoutException:
            handle.disconnect()
            raise TimeoutException(
                f"the command took longer than {timeout or 0:g} s and was killed",
                "give a larger timeout, or None for no limit",
            ) from None

    def connect(
        self, pid: int, on_stdout: OnText | None = None, on_stderr: OnText | None = None, timeout: float | None = 60
    ) -> CommandHandle:
        """Follow a command that runs already; earlier output is gone. Raises: NotFoundException."""
        link = self._sandbox.link
        texts = _Texts(link, on_stdout, on_stderr)
        running = Running.connect(link, ProcessException, {"pid": pid}, timeout)
        running.follow(texts)
        return CommandHandle(running, texts, f"process {pid}")

    def list(self, timeout: float | None = 60) -> list[ProcessInfo]:
        """The running processes that clients, or the template's start command, started."""
        answer = self._sandbox.link.rpc("process.Process/List", {}, ProcessException, timeout)
        found = []
        for raw in answer.get("processes", ()):
            config = raw.get("config", {})
            found.append(
                ProcessInfo(
                    pid=raw["pid"], cmd=config.get("cmd", ""), args=config.get("args", []), envs=config.get("envs", {}),
                    cwd=config.get("cwd"), tag=raw.get("tag"),
                )
            )  # fmt: skip
        return found

    def kill(self, pid: int, timeout: float | None = 60) -> bool:
        """End a process with SIGKILL. False if there is none of this number."""
        return kill(self._sandbox.link, pid, ProcessException, timeout)

    def send_stdin(self, pid: int, data: str | bytes, timeout: float | None = 60) -> None:
        """Write to a process's standard input. Raises: NotFoundException, ProcessException."""
        message = {"process": {"pid": pid}, "input": {"stdin": wire.base64_text(data)}}
        self._sandbox.link.rpc("process.Process/SendInput", message, ProcessException, timeout)

    def close_stdin(self, pid: int, timeout: float | None = 60) -> None:
        """End a process's standard input. Raises: NotFoundException, ProcessException."""
        message = {"process": {"pid": pid}}
        self._sandbox.link.rpc("process.Process/CloseStdin", message, ProcessException, timeout)
