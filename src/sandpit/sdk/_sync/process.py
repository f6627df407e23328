# Generated from _async/process.py by scripts/make_sync: change that one.
"""`sandbox.process`: processes as the 2024 SDK has them, with their output in lines."""

from __future__ import annotations

import inspect
import secrets
import time
from typing import TYPE_CHECKING, Any

from sandpit.sdk import wire
from sandpit.sdk._sync._concurrency import Outcome
from sandpit.sdk._sync.running import Ended, Running, shell, tell
from sandpit.sdk.errors import NotFoundException, ProcessException, SandboxException, TimeoutException
from sandpit.sdk.models import EnvVars, ProcessMessage, ProcessOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.sdk._sync.sandbox import Sandbox

    OnOutput = Callable[[ProcessMessage], Any]
    OnExit = Callable[[int], Any] | Callable[[], Any]


class Process:
    """A process in the sandbox."""

    def __init__(self, running: Running, process_id: str, lines: _Lines) -> None:
        self._running, self._process_id, self._lines = running, process_id, lines

    @property
    def process_id(self) -> str:
        """The id that was given to `start`, or made up."""
        return self._process_id

    @property
    def pid(self) -> int:
        """The process's number in the sandbox."""
        return self._running.pid

    @property
    def output(self) -> ProcessOutput:
        """What it has written so far."""
        return self._lines.output

    @property
    def output_messages(self) -> list[ProcessMessage]:
        """The lines that it has written so far."""
        return self.output.messages

    @property
    def stdout(self) -> str:
        return self.output.stdout

    @property
    def stderr(self) -> str:
        return self.output.stderr

    @property
    def error(self) -> bool:
        """Whether it has written to standard error."""
        return self.output.error

    @property
    def finished(self) -> Outcome[ProcessOutput]:
        """Its end: `done()`, `result()`."""
        return self._lines.finished

    @property
    def exit_code(self) -> int:
        """Its exit code, -1 after a signal. Raises: ProcessException: it still runs."""
        if (code := self.output.exit_code) is None:
            raise ProcessException(f"process {self.pid} has not ended: it has no exit code yet", "wait() for it first")
        return code

    def wait(self, timeout: float | None = None) -> ProcessOutput:
        """Wait until it ends, and return its output.

        `timeout`: seconds, None for no limit. Raises: TimeoutException: it goes on; SandboxException: nobody will know.
        """
        try:
            return self.finished.result(timeout)
        except TimeoutError as error:
            if isinstance(error, SandboxException):
                raise
            raise TimeoutException(f"process {self.pid} has not ended within {timeout:g} s; it goes on") from None

    def send_stdin(self, data: str | bytes, timeout: float | None = 60) -> None:
        """Write to its standard input. Text is sent as UTF-8. Raises: ProcessException, TimeoutException."""
        self._running.write("stdin", data, timeout)

    def kill(self, timeout: float | None = 60) -> None:
        """End it with SIGKILL, and its children; return when it has ended. Raises: TimeoutException."""
        if not self.finished.done():
            self._running.kill(timeout)
            self.wait(timeout)


class _Lines:
    """Sorts output into lines for the callbacks."""

    def __init__(
        self, sandbox: Sandbox, on_stdout: OnOutput | None, on_stderr: OnOutput | None, on_exit: OnExit | None
    ) -> None:
        self._link = sandbox.link
        self._callbacks = {"stdout": on_stdout, "stderr": on_stderr}
        self._decoders = {"stdout": wire.LineDecoder(), "stderr": wire.LineDecoder()}
        self._on_exit = on_exit
        self.output = ProcessOutput()
        self.finished: Outcome[ProcessOutput] = Outcome()

    def data(self, kind: str, data: bytes, *, final: bool = False) -> None:
        for line in self._decoders[kind].feed(data, final=final):
            message = ProcessMessage(line, time.time_ns(), error=kind == "stderr")
            self.output.messages.append(message)
            self.output.error = self.output.error or message.error
            tell(self._link, self._callbacks[kind], message)

    def ended(self, end: Ended) -> None:
        for kind in self._decoders:
            self.data(kind, b"", final=True)
        self.output.exit_code = end.exit_code
        if self._on_exit is not None:
            tell(self._link, self._on_exit, *([end.exit_code] if _takes_one(self._on_exit) else []))
        self.finished.set_result(self.output)

    def failed(self, error: SandboxException) -> None:
        self.finished.set_exception(error)


class ProcessManager:
    """Starts processes."""

    def __init__(
        self, sandbox: Sandbox, on_stdout: OnOutput | None, on_stderr: OnOutput | None, on_exit: OnExit | None
    ) -> None:
        self._sandbox = sandbox
        self._on_stdout, self._on_stderr, self._on_exit = on_stdout, on_stderr, on_exit

    def start(
        self,
        cmd: str,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_exit: OnExit | None = None,
        env_vars: EnvVars | None = None,
        cwd: str = "",
        rootdir: str = "",
        process_id: str | None = None,
        timeout: float | None = 60,
    ) -> Process:
        """Start a command in a login shell, as the template's user; returns when it has started.

        `on_stdout`, `on_stderr`: called with each line. `on_exit`: called with the exit code, or with nothing. Each takes the
        place of the sandbox's own one. `env_vars`: on top of the sandbox's. `cwd`: else the sandbox's; `rootdir` is its old name.
        `timeout`: seconds for the start.
        Raises: CurrentWorkingDirectoryDoesntExistException, ProcessException, TimeoutException.
        """
        sandbox = self._sandbox
        lines = _Lines(sandbox, on_stdout or self._on_stdout, on_stderr or self._on_stderr, on_exit or self._on_exit)
        process_id = process_id or secrets.token_hex(6)
        message = {
            "process": {**shell(cmd), "envs": sandbox.process_env(env_vars), **sandbox.process_cwd(cwd or rootdir)},
            "tag": process_id,
            "stdin": True,
        }
        running = Running.start(sandbox.link, ProcessException, message, timeout)
        sandbox.logger.info("process %d started in %s: %s", running.pid, sandbox.id, cmd)
        running.follow(lines)
        return Process(running, process_id, lines)

    def start_and_wait(
        self,
        cmd: str,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        on_exit: OnExit | None = None,
        env_vars: EnvVars | None = None,
        cwd: str = "",
        process_id: str | None = None,
        timeout: float | None = 60,
    ) -> ProcessOutput:
        """`start`, then `wait` without a limit: `timeout` is the start's."""
        process = self.start(cmd, on_stdout, on_stderr, on_exit, env_vars, cwd, "", process_id, timeout)
        return process.wait()

    def follow_start_command(self, timeout: float | None) -> None:
        """Give the output of the template's start command to the sandbox's callbacks, if it has one: past and future."""
        selector = {"tag": START_COMMAND_TAG}
        try:
            running = Running.connect(self._sandbox.link, ProcessException, selector, timeout, past=True)
        except NotFoundException:
            return
        running.follow(_Lines(self._sandbox, self._on_stdout, self._on_stderr, None))


START_COMMAND_TAG = "start_cmd"


def _takes_one(callback: Callable[..., Any]) -> bool:
    """Whether a callback wants an argument; what cannot be asked is given one."""
    try:
        parameters = inspect.signature(callback).parameters.values()
    except ValueError:
        return True
    return any(
        parameter.kind is not parameter.VAR_KEYWORD and parameter.kind is not parameter.KEYWORD_ONLY
        for parameter in parameters
    )
