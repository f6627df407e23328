"""Contexts: named places with their own kernel, where cells run one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sandpit.guest.interpreter import events
from sandpit.guest.interpreter.environment import Change, InstanceFile, difference
from sandpit.guest.interpreter.kernel import Kernel, KernelStartError, Launch, PortTakenError
from sandpit.guest.interpreter.kernelspecs import is_ipython
from sandpit.guest.interpreter.languages import change_code, traits
from sandpit.guest.interpreter.outbox import Outbox
from sandpit.guest.interpreter.run import Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jupyter_client.kernelspec import KernelSpec

_LOG = logging.getLogger(__name__)

_EXIT_SECONDS = 3.0
_TRIES = 4
_NOTICES = {
    Outcome.DIED: events.RESTARTED,
    Outcome.OUT_OF_MEMORY: events.OUT_OF_MEMORY,
    Outcome.ABORTED: events.ABORTED,
}


@dataclass(slots=True)
class Cell:
    """Code that a client wants to run, and where its answer goes."""

    code: str
    env_vars: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    """Run it without a count, history or output."""
    render: events.Render = events.parts
    """Makes lines of what the kernel says."""
    outbox: Outbox = field(default_factory=Outbox)
    abandoned: bool = False
    on_abandon: Callable[[], None] | None = None
    """Set while the cell runs: stops it."""

    def abandon(self) -> None:
        """The client is gone: stop running."""
        self.abandoned = True
        self.outbox.discard()
        if self.on_abandon is not None:
            self.on_abandon()


class KernelFactory(Protocol):
    """Makes a kernel that is not started yet."""

    def __call__(self, spec: KernelSpec) -> Kernel: ...


class Context:
    """One kernel after the other under one id. `close` ends everything it owns."""

    def __init__(
        self,
        language: str,
        cwd: str,
        spec: KernelSpec,
        make: KernelFactory,
        instance: InstanceFile,
        base: Mapping[str, str],
        default_cwd: str,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.language, self.cwd, self._default_cwd = language, cwd, default_cwd
        self._spec, self._make, self._instance, self._base = spec, make, instance, base
        self._kernel: Kernel | None = None
        self._applied: Mapping[str, str] = {}
        self._life = ""
        self._changing = asyncio.Lock()  # held while the kernel is being replaced
        self._queue: asyncio.Queue[Cell] = asyncio.Queue()
        self._current: Cell | None = None
        self._worker = asyncio.create_task(self._work())
        self._reviver: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether a kernel has come up."""
        return self._kernel is not None

    @property
    def busy(self) -> bool:
        """Whether a cell runs or waits."""
        return self._current is not None

    @property
    def is_ipython(self) -> bool:
        """Whether our own files run in the kernel."""
        return is_ipython(self._spec)

    async def start(self) -> Kernel:
        """The running kernel, started if there is none. Raises KernelStartError."""
        async with self._changing:
            kernel = self._kernel
            if kernel is not None and kernel.exiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(kernel.died.wait(), _EXIT_SECONDS)
                kernel.kill()
                await kernel.died.wait()
            if kernel is not None and not kernel.died.is_set():
                return kernel
            return await self._replace()

    async def restart(self) -> None:
        """A new kernel under the same id; a running cell ends with an error, waiting ones run in the new kernel."""
        async with self._changing:
            await self._replace()

    def submit(self, cell: Cell) -> None:
        """Queue a cell behind those that wait already."""
        self._queue.put_nowait(cell)

    async def warm_up(self, code: str) -> None:
        """Run code silently before the first user; it leaves no count and no history."""
        kernel = await self.start()
        await kernel.begin(code, None, silent=True).outcome

    async def close(self) -> None:
        """End the kernel; running and waiting cells end with an error."""
        self._worker.cancel()
        tasks = [self._worker] if self._reviver is None else [self._worker, self._reviver]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        cells = [self._current] if self._current else []
        while not self._queue.empty():
            cells.append(self._queue.get_nowait())
        for cell in cells:
            _end(cell, events.CLOSED)
        if self._kernel is not None:
            await self._kernel.close()

    async def _replace(self) -> Kernel:
        """Precondition: `_changing` is held."""
        if self._kernel is not None:
            await self._kernel.close()
        self._kernel = None
        now = self._instance.read()
        cwd = next(filter(is_directory, (self.cwd, self._default_cwd, "/")))
        kernel = await self._launch(Launch(cwd, {**self._base, **now.variables}))
        self._kernel, self._life = kernel, now.instance
        self._applied = now.variables if traits(self._spec.language.lower()).takes_environment else {}
        if self._reviver is not None:
            self._reviver.cancel()
        self._reviver = asyncio.create_task(self._revive(kernel))
        return kernel

    async def _launch(self, launch: Launch) -> Kernel:
        """A kernel that answers; one whose ports were taken meanwhile is followed by another. Raises KernelStartError."""
        tries = _TRIES
        while True:
            kernel, tries = self._make(self._spec), tries - 1
            try:
                await kernel.start(launch)
            except BaseException as problem:  # also when we are cancelled: a half-started process must not stay
                await kernel.close()
                if tries and isinstance(problem, PortTakenError):
                    continue
                raise
            return kernel

    async def _revive(self, kernel: Kernel) -> None:
        """Have a new kernel ready soon after one died."""
        await kernel.died.wait()
        self._reviver = None
        try:
            await self.start()
        except KernelStartError as problem:
            _LOG.warning("context %s has no kernel: %s", self.id, problem)

    async def _work(self) -> None:
        while True:
            cell = await self._queue.get()
            self._current = cell
            await self._execute(cell)
            self._current = None

    async def _execute(self, cell: Cell) -> None:
        try:
            run = await self._run(cell)
            if run and run.outcome.result() is Outcome.DIED and not run.started:
                run = await self._run(cell)  # the kernel died before the cell began
        except KernelStartError as problem:
            _end(cell, events.error("KernelStartError", f"{problem}; restart the context to try again"))
            return
        except Exception as problem:  # noqa: BLE001 - one cell's trouble must not end the worker, and with it all later cells
            _LOG.exception("context %s failed to run a cell", self.id)
            _end(cell, events.error("InternalError", f"{problem}; restart the context if it goes on"))
            return
        _end(cell, _NOTICES.get(run.outcome.result(), b"") if run else b"")

    async def _run(self, cell: Cell) -> Run | None:
        kernel = await self.start()
        if cell.abandoned:
            return None
        run = kernel.begin(cell.code, cell.outbox, setup=self._setup(cell), silent=cell.silent, render=cell.render)
        cell.on_abandon = functools.partial(kernel.cancel, run)
        await run.outcome
        return run

    def _setup(self, cell: Cell) -> str:
        """What the kernel must do first: variables of this cell come, those of the last go, another life reseeds."""
        now = self._instance.read()
        wanted = {**now.variables, **cell.env_vars}
        change = difference(self._applied, wanted, self._base)
        change = Change(change.assign, change.remove, reseed=now.instance != self._life)
        self._applied, self._life = wanted, now.instance
        return change_code(self._spec.language.lower(), change)


def is_directory(path: str) -> bool:
    """Whether this is a directory of the sandbox; paths that cannot be one (NUL) are none."""
    try:
        return Path(path).is_dir()
    except ValueError:
        return False


def _end(cell: Cell, notice: bytes) -> None:
    if notice:
        cell.outbox.put_nowait(notice)
    cell.outbox.put_nowait(events.END)
    cell.outbox.close()
