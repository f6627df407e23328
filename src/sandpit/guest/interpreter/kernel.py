"""One kernel process: start, executions one at a time, interrupt, death."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import signal
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandpit.guest.interpreter import deno, events
from sandpit.guest.interpreter.connection import Connection
from sandpit.guest.interpreter.kernelspecs import Kernelspecs, is_ipython
from sandpit.guest.interpreter.killed import by_want_of_memory
from sandpit.guest.interpreter.languages import traits
from sandpit.guest.interpreter.run import Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import zmq.asyncio
    from jupyter_client.kernelspec import KernelSpec

    from sandpit.guest.interpreter.outbox import Outbox

_LOG = logging.getLogger(__name__)

_START_SECONDS = 60.0
_ASK_AGAIN_SECONDS = 0.05
_LAST_OUTPUT_SECONDS = 0.05
_LOST_IDLE_SECONDS = 5.0
_SHUTDOWN_SECONDS = 1.0
_INTERRUPT_AFTER = (1.0, 4.0, 10.0)
_DENO_INTERRUPT_AFTER = (0.3, 0.7, 1.5)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_PORT_TAKEN = os.strerror(errno.EADDRINUSE)
"""How Python, Rust and the JVM put it."""


class KernelStartError(Exception):
    """A kernel did not come up; the message holds the last lines it wrote."""


class PortTakenError(KernelStartError):
    """A port that was free when it was chosen for the kernel was not when the kernel came: try again with another kernel."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a kernel is started with."""

    cwd: str
    env: Mapping[str, str]


class Kernel:
    """A kernel process of the image's and our connection to it. `close` ends everything it owns."""

    def __init__(
        self,
        specs: Kernelspecs,
        spec: KernelSpec,
        *,
        runtime_dir: Path,
        context: zmq.asyncio.Context,
        transport: str = "tcp",
    ) -> None:
        self._specs, self._spec = specs, spec
        transport = transport if is_ipython(spec) else "tcp"
        self._connection = Connection(context, runtime_dir / f"{uuid.uuid4().hex}.json", transport)
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._last_words: deque[bytes] = deque(maxlen=20)
        self._run: Run | None = None
        self._traits = traits(spec.language.lower())
        self._started = 0.0
        """When the process was started (Unix seconds)."""
        self._killed = False
        """Whether its end is our doing."""
        self._deno = deno.is_deno(spec)
        self._uncounted = 0
        """Silent requests that the kernel has counted."""
        self._answered, self._published = asyncio.Event(), asyncio.Event()
        self.died = asyncio.Event()
        self.exiting = False
        """The user's code asked the kernel to end: it still answers, but not for long."""

    async def start(self, launch: Launch) -> None:
        """Start the process and wait until it answers. Raises KernelStartError, PortTakenError."""
        try:
            argv = self._specs.command(self._spec, self._connection.file)
            env = self._specs.environment(self._spec, launch.env)
            if not is_ipython(self._spec):
                env["JPY_PARENT_PID"] = str(os.getpid())  # a politer end than the one below, where kernels know it
            self._started = time.time()
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=launch.cwd,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=None if is_ipython(self._spec) else _end_with_the_service,  # that one sees to it itself
            )
        except OSError as problem:
            raise KernelStartError(f"cannot start the kernel {self._spec.display_name!r}: {problem}") from problem
        readers = (self._listen(), self._read_shell(), self._read_iopub(), self._watch())
        self._tasks = [asyncio.create_task(reader) for reader in readers]
        await self._greet()
        if self._deno:
            self._connection.execute(deno.start_code(), silent=True)

    def begin(
        self,
        code: str,
        outbox: Outbox | None,
        *,
        setup: str = "",
        silent: bool = False,
        render: events.Render = events.parts,
    ) -> Run:
        """Send `setup` (silently) and `code` in one go; `render` makes lines of output messages. Precondition: no other run is going on."""
        if setup:
            self._connection.execute(setup, silent=True)
            self._uncounted += self._traits.counts_silent
        run = Run(self._connection.execute(code, silent=silent), outbox, render)
        if self._deno:
            run.flush_id = self._connection.execute(deno.FLUSH, silent=True)
        self._run = run
        self._last_words.clear()
        if self.died.is_set():
            run.finish(Outcome.DIED)
        return run

    def cancel(self, run: Run) -> None:
        """Interrupt the run, as soon as it has started, and again while it goes on."""
        run.cancelled = True
        if run.started:
            self._interrupt(run, 0)

    def kill(self) -> None:
        """End the process and its children at once."""
        self._killed = True
        self._signal(signal.SIGKILL)

    async def close(self) -> None:
        """End the process, politely if it is idle so that its exit handlers run, and free everything."""
        polite = self._process is not None and not self.died.is_set() and self._run is None
        if polite and self._answered.is_set():
            self._connection.control("shutdown_request", {"restart": False})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.died.wait(), _SHUTDOWN_SECONDS)
        self.kill()
        if self._process is not None and self._tasks:
            await self.died.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._connection.close()

    async def _greet(self) -> None:
        """Ask until an answer came on shell and on iopub: subscriptions come up at their own pace."""
        died = asyncio.create_task(self.died.wait())
        try:
            async with asyncio.timeout(_START_SECONDS):
                self._connection.ask_info()
                answered = asyncio.create_task(self._answered.wait())
                await asyncio.wait((died, answered), return_when=asyncio.FIRST_COMPLETED)
                answered.cancel()
                while not self._published.is_set() and not self.died.is_set():
                    self._connection.ask_info()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._published.wait(), _ASK_AGAIN_SECONDS)
        except TimeoutError:
            raise KernelStartError(
                f"the kernel did not answer within {_START_SECONDS:.0f} s: {self._words()}"
            ) from None
        finally:
            died.cancel()
        if self.died.is_set():
            words = self._words()
            kind = PortTakenError if _PORT_TAKEN in words else KernelStartError
            raise kind(f"the kernel {self._spec.display_name!r} ended at once: {words}")

    async def _listen(self) -> None:
        """Keep the last lines that the process itself wrote, so that its pipe never fills.

        A kernel whose port is taken is ended here: ipykernel 6 says so, then waits for ever for its own sockets to close.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(4096):
            self._last_words.append(chunk)
            if not self._answered.is_set() and _PORT_TAKEN in self._words():
                self.kill()

    def _words(self) -> str:
        return b"".join(self._last_words).decode(errors="replace").strip() or "it wrote nothing"

    async def _watch(self) -> None:
        assert self._process is not None
        status = await self._process.wait()
        ours = self._killed
        self.kill()  # children that held on to the kernel's session
        await asyncio.sleep(_LAST_OUTPUT_SECONDS)
        outcome = Outcome.DIED
        if status == -signal.SIGKILL and not ours and await by_want_of_memory(self._process.pid, self._started):
            outcome = Outcome.OUT_OF_MEMORY
        self.died.set()
        if self._run is not None:
            self._run.finish(outcome)

    async def _read_shell(self) -> None:
        while True:
            message = await self._connection.shell_message()
            self._answered.set()
            run, content = self._run, message["content"]
            if run is None or message["parent_header"].get("msg_id") != run.msg_id:
                if content.get("status") == "error":
                    _LOG.warning("a set-up request failed: %s: %s", content.get("ename"), content.get("evalue"))
                continue
            run.replied, run.aborted = True, content.get("status") in {"aborted", "abort"}
            run.failure = content if content.get("status") == "error" else None
            self.exiting = any(part.get("source") == "ask_exit" for part in content.get("payload") or ())
            self._settle(run)
            # The kernel's word that it is idle follows at once; it is lost only if the kernel dropped output.
            asyncio.get_running_loop().call_later(_LOST_IDLE_SECONDS, self._give_up_waiting, run)

    async def _read_iopub(self) -> None:
        await self._answered.wait()
        while True:
            message = await self._connection.iopub_message()
            self._published.set()
            run, parent = self._run, message["parent_header"].get("msg_id")
            if run is None or (
                parent != run.msg_id and not (parent == run.flush_id and message["msg_type"] in deno.OUTPUT)
            ):
                continue
            await self._deliver(run, message)
            run.heard = asyncio.get_running_loop().time()

    async def _deliver(self, run: Run, message: Mapping[str, Any]) -> None:
        kind = message["msg_type"]
        if kind == "status":
            run.idle = message["content"].get("execution_state") == "idle"
            self._settle(run)
            return
        if run.flush_id and deno.is_mark(message):
            run.flush_id = ""
            self._settle(run)
            return
        if kind == "execute_input":
            run.started = True
            if run.cancelled:
                self._interrupt(run, 0)
        if run.outbox is None:
            return
        run.failure_told |= kind == "error"
        for part in run.render(message, uncounted=self._uncounted, newline_apart=self._traits.newline_apart):
            await run.outbox.put(part)

    def _settle(self, run: Run) -> None:
        if run.idle and run.replied and not run.flush_id:
            self._run = None
            run.tell_failure(b"".join(self._last_words).decode(errors="replace").strip())
            if self.exiting and not run.outcome.done():  # some kernels end by themselves, others leave it to us
                self._connection.control("shutdown_request", {"restart": False})
            run.finish(Outcome.ABORTED if run.aborted else Outcome.FINISHED)

    def _give_up_waiting(self, run: Run) -> None:
        if run.outcome.done():
            return
        loop = asyncio.get_running_loop()
        if loop.time() - run.heard < _LOST_IDLE_SECONDS or (run.outbox is not None and run.outbox.full):
            loop.call_later(_LOST_IDLE_SECONDS, self._give_up_waiting, run)
            return
        run.idle, run.flush_id = True, ""
        self._settle(run)

    def _interrupt(self, run: Run, attempt: int) -> None:
        if run.outcome.done() or run.replied or self._run is not run:
            return
        if self._deno and attempt == len(_DENO_INTERRUPT_AFTER):
            self.kill()  # a top-level `await` takes neither; the context gets a new kernel
            return
        # Deno takes the signal while it awaits a cell's value and the message at other times; both at once end neither.
        if self._spec.interrupt_mode == "message" or (self._deno and attempt % 2):
            self._connection.control("interrupt_request", {})
        else:
            self._signal(signal.SIGINT)
        # Again, ever more rarely: code may have caught it, or have been busy starting.
        delays = _DENO_INTERRUPT_AFTER if self._deno else _INTERRUPT_AFTER
        delay = delays[min(attempt, len(delays) - 1)]
        asyncio.get_running_loop().call_later(delay, self._interrupt, run, attempt + 1)

    def _signal(self, number: int) -> None:
        if self._process is not None and not self.died.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def _end_with_the_service() -> None:
    """In the kernel's process, before its program: whatever ends us ends it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
