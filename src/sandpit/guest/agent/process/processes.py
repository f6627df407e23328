"""The processes of a sandbox that clients started: their output, input and end (current-protocol 5).

Everything here runs on the event loop and nowhere else. There are no tasks per process: descriptors and timers call
back.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shlex
import signal
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.process.pipes import InputPipe, OutputPipe
from sandpit.guest.agent.process.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from sandpit.guest.agent.control.journal import Journal
    from sandpit.guest.agent.control.ports import PortWatch
    from sandpit.guest.agent.process.spawn import Command

PIPE_CHUNK_BYTES = 32 << 10
TERMINAL_CHUNK_BYTES = 16 << 10
EXITED_KEPT_S = 30.0
"""How long an exited process can be connected to."""
DRAIN_GRACE_S = 0.2
"""How long output may come after the exit, from children that hold the pipe (`exec > >(tee log)`), before `end`."""
MAX_WAITING_EVENTS = 8
"""Events that may wait for a subscriber; at this number reading stops, and the process blocks on a full pipe."""

KEEPALIVE = b'{"event":{"keepalive":{}}}'
_DATA = b'{"event":{"data":{'


def data_event(stream: str, data: bytes) -> bytes:
    """The event that tells of output to `stdout`, `stderr` or `pty`; without line ends."""
    return _DATA + b'"%s":"' % stream.encode() + base64.b64encode(data) + b'"}}}'


@dataclass(frozen=True, slots=True)
class Config:
    """What the client asked for, as `List` reports it."""

    cmd: str
    args: list[str]
    envs: dict[str, str]
    cwd: str | None
    tag: str | None


class Subscriber:
    """One stream of a process's events, each encoded as JSON."""

    def __init__(self, process: Process, keepalive_s: float) -> None:
        self._process = process
        self._keepalive_s = keepalive_s
        self._events: deque[bytes] = deque([process.start_event()])
        self._waiter: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        return len(self._events) >= MAX_WAITING_EVENTS

    @property
    def waiting_data(self) -> list[bytes]:
        """The events of output that have not been taken yet."""
        return [event for event in self._events if event.startswith(_DATA)]

    def put(self, event: bytes) -> None:
        """Add an event. The process stops reading output when this makes the subscriber full."""
        self._events.append(event)
        self._wake()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """All events from now on; the last one is `end`. A silence is filled with keepalive events."""
        try:
            while True:
                while self._events:
                    event = self._events.popleft()
                    self._process.flow()
                    yield event
                if self._process.finished:
                    return
                if not await self._wait():
                    yield KEEPALIVE
        finally:
            self._process.unsubscribe(self)

    async def _wait(self) -> bool:
        """Wait for an event; False when there was silence instead."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(self._keepalive_s, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        return bool(self._events)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Process:
    """A running process, or one that exited a short while ago."""

    def __init__(self, config: Config, command: Command, *, waits_for_output: bool = False) -> None:
        """Start it. With `waits_for_output` it ends only when nobody holds its pipes any more. Raises: as spawn.spawn."""
        self.config = config
        self._waits_for_output = waits_for_output
        spawned = spawn(command)
        self.pid = spawned.pid
        self.started = time.monotonic()
        self.has_terminal = spawned.terminal is not None
        self.input = InputPipe(spawned.stdin) if spawned.stdin is not None else None
        self._outputs: list[OutputPipe] = []
        self._add_output(spawned.stdout, "stdout", PIPE_CHUNK_BYTES)
        self._add_output(spawned.stderr, "stderr", PIPE_CHUNK_BYTES)
        self._add_output(spawned.terminal, "pty", TERMINAL_CHUNK_BYTES)
        self._subscribers: list[Subscriber] = []
        self._exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.finished = False

    @property
    def running(self) -> bool:
        """Whether it has not been reaped."""
        return not self._exited.done()

    def subscribe(self, keepalive_s: float) -> Subscriber:
        """A new stream of events, beginning with `start`. Of a finished process it is start and end."""
        subscriber = Subscriber(self, keepalive_s)
        if self.finished:
            subscriber.put(self._end_event())
        else:
            self._subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self.flow()

    def flow(self) -> None:
        """Read output when no subscriber is behind, else let the process wait."""
        reading = not any(subscriber.full for subscriber in self._subscribers)
        for output in self._outputs:
            output.flow(reading)

    def signal(self, number: signal.Signals) -> None:
        """SIGKILL goes to the process group: nothing of `npm run dev` stays. Others go to the process alone."""
        if not self.running:
            return
        send = os.killpg if number == signal.SIGKILL else os.kill
        with contextlib.suppress(ProcessLookupError):  # dead already, and about to be reaped
            send(self.pid, number)

    async def wait(self) -> None:
        """Return when it has been reaped."""
        await asyncio.shield(self._exited)

    def on_reaped(self, status: int) -> None:
        """Take the wait status; what is still in the pipes is delivered before `end`."""
        self._exited.set_result(status)
        if self.input is not None:
            self.input.close()
        if not self._waits_for_output:
            asyncio.get_running_loop().call_later(DRAIN_GRACE_S, self._stop_waiting)
        self._finish_if_drained()

    def start_event(self) -> bytes:
        return b'{"event":{"start":{"pid":%d}}}' % self.pid

    def _add_output(self, fd: int | None, name: str, chunk_bytes: int) -> None:
        if fd is None:
            return

        def deliver(chunk: bytes) -> None:
            if not self._subscribers:
                return
            event = data_event(name, chunk)
            for subscriber in self._subscribers:
                subscriber.put(event)
            self.flow()

        self._outputs.append(OutputPipe(fd, chunk_bytes, deliver, self._finish_if_drained))

    def _stop_waiting(self) -> None:
        for output in self._outputs:
            output.finish()
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        if self.finished or self.running or not all(output.drained for output in self._outputs):
            return
        self.finished = True
        end = self._end_event()
        for subscriber in self._subscribers:
            subscriber.put(end)
        self._subscribers.clear()

    def _end_event(self) -> bytes:
        status = self._exited.result()
        code = os.waitstatus_to_exitcode(status)
        end: dict[str, Any]
        if code >= 0:
            end = {"exitCode": code, "exited": True, "status": f"exit status {code}"}
        else:
            text = f"signal: {_signal_text(-code)}" + (" (core dumped)" if os.WCOREDUMP(status) else "")
            end = {"exitCode": -1, "exited": False, "status": text}
        if code:
            end["error"] = end["status"]
        return json.dumps({"event": {"end": end}}, separators=(",", ":")).encode()


class ProcessTable:
    """All processes that clients started, and the reaping of every child, orphans included."""

    def __init__(self, journal: Journal, ports: PortWatch) -> None:
        self._journal = journal
        self._ports = ports
        self._processes: dict[int, Process] = {}
        self._others: dict[int, asyncio.Future[int]] = {}

    def adopt(self, pid: int, exited: asyncio.Future[int]) -> None:
        """Have a child of the agent's own reaped, too: `exited` gets its wait status. It is not in the table."""
        self._others[pid] = exited

    def start(self, config: Config, command: Command, *, waits_for_output: bool = False) -> Process:
        """Start a process and keep it in the table; arguments as Process takes them. Raises: as spawn.spawn."""
        process = Process(config, command, waits_for_output=waits_for_output)
        self._processes[process.pid] = process
        self._tell_start(process, command)
        self._ports.poke()
        return process

    def running(self) -> Iterator[Process]:
        return (process for process in self._processes.values() if process.running)

    def find(self, *, pid: int | None = None, tag: str | None = None) -> Process | None:
        """The process with this pid, else the newest with this tag; it may have exited a short while ago."""
        if pid is not None:
            return self._processes.get(pid)
        tagged = [process for process in self._processes.values() if process.config.tag == tag]
        return next((process for process in tagged if process.running), tagged[-1] if tagged else None)

    def reap(self) -> None:
        """Collect every child that has died. As PID 1 these are also orphans of processes that nobody knows here."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (exited := self._others.pop(pid, None)) is not None:
                if not exited.done():
                    exited.set_result(status)
                continue
            process = self._processes.get(pid)
            if process is not None and process.running:
                process.on_reaped(status)
                self._tell_end(process, status)
                asyncio.get_running_loop().call_later(EXITED_KEPT_S, self._forget, process)

    def _tell_start(self, process: Process, command: Command) -> None:
        line = shlex.join(command.argv)
        user, tag = command.account.name, process.config.tag
        logger, what = _loggers(process)
        message = f"{what} started"
        self._journal.add(logger, "info", message, pid=process.pid, cmd=line, cwd=command.cwd, user=user, tag=tag)

    def _tell_end(self, process: Process, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        seconds = round(time.monotonic() - process.started, 3)
        logger, what = _loggers(process)
        if code >= 0:
            self._journal.add(logger, "info", f"{what} ended", pid=process.pid, exitCode=code, seconds=seconds)
        else:
            name = _signal_text(-code)
            self._journal.add(logger, "warn", f"{what} was ended", pid=process.pid, signal=name, seconds=seconds)

    def _forget(self, process: Process) -> None:
        if self._processes.get(process.pid) is process:
            del self._processes[process.pid]


def _loggers(process: Process) -> tuple[str, str]:
    """The logger of a process's events, and what to call it."""
    return ("terminal", "terminal") if process.has_terminal else ("process", "process")


def _signal_text(number: int) -> str:
    """The name that Go programs, and so E2B's clients, know a signal by."""
    return (signal.strsignal(number) or str(number)).lower()
