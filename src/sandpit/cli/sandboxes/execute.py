"""`sandpit sandbox exec`: a command in a sandbox as if it ran here, its input, output and exit status included."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shlex
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import typer

from sandpit.cli.agent import Agent
from sandpit.cli.client import Api, Json
from sandpit.cli.errors import CliError
from sandpit.cli.sandboxes import choose
from sandpit.cli.sandboxes.sandbox import CONNECT_SECONDS, pairs

_CHUNK = 64 << 10
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
KILLED = 255
"""Exit status for a command that a signal ended."""


@dataclass(slots=True)
class Wanted:
    """A command, and where it runs."""

    command: list[str]
    user: str | None = None
    cwd: str | None = None
    env: list[str] = field(default_factory=list)
    background: bool = False

    def message(self, *, stdin: bool) -> Json:
        """What the agent is asked for: one argument is a line for the shell, several are quoted for it."""
        line = self.command[0] if len(self.command) == 1 else shlex.join(self.command)
        process: Json = {"cmd": "/bin/bash", "args": ["-l", "-c", line], "envs": pairs(self.env, "--env")}
        if self.cwd:
            process["cwd"] = self.cwd
        return {"process": process, "stdin": stdin}


def run(sandbox_id: str | None, wanted: Wanted) -> None:
    """Run it and exit as it does. Raises: CliError, typer.Exit, BrokenPipeError."""
    with Api() as api:
        sandbox = api.connect(choose.sandbox_id(api, sandbox_id), CONNECT_SECONDS)
        account = api.account
    status = asyncio.run(_run(Agent(account, sandbox, wanted.user), wanted))
    raise typer.Exit(status)


async def _run(agent: Agent, wanted: Wanted) -> int:
    piped = not wanted.background and _stdin_is_piped()
    async with agent, agent.start(wanted.message(stdin=piped)) as events:
        pid = (await anext(events))["start"]["pid"]
        if wanted.background:
            typer.echo(str(pid))
            return 0
        with _signals_kill(agent, pid):
            feeding = asyncio.ensure_future(_feed(agent, pid)) if piped else None
            try:
                return await _show(events)
            except BrokenPipeError:
                await _kill(agent, pid)
                raise
            finally:
                if feeding is not None:
                    feeding.cancel()
                    await asyncio.gather(feeding, return_exceptions=True)


async def _show(events: AsyncIterator[Json]) -> int:
    async for event in events:
        if data := event.get("data"):
            for name, number in (("stdout", 1), ("stderr", 2)):
                if name in data:
                    write_all(number, base64.b64decode(data[name]))
        elif end := event.get("end"):
            if not end.get("exited", False):
                typer.echo(end.get("status", "killed"), err=True)
                return KILLED
            return int(end.get("exitCode", 0))
    raise CliError("the command's end was not told")


def write_all(descriptor: int, data: bytes) -> None:
    """Write to the terminal or pipe, however long it takes. Raises: BrokenPipeError."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody who shares the terminal has made it so
            import select

            select.select([], [descriptor], [])


async def _feed(agent: Agent, pid: int) -> None:
    """Pass standard input on, to its end. A command that has ended needs none."""
    selector = {"process": {"pid": pid}}
    with contextlib.suppress(CliError):
        while chunk := await asyncio.to_thread(os.read, sys.stdin.fileno(), _CHUNK):
            await agent.call("SendInput", {**selector, "input": {"stdin": base64.b64encode(chunk).decode()}})
        await agent.call("CloseStdin", selector)


def _stdin_is_piped() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def _signals_kill(agent: Agent, pid: int) -> Iterator[None]:
    loop, killing = asyncio.get_running_loop(), []

    def kill() -> None:
        killing.append(loop.create_task(_kill(agent, pid)))  # its end event comes, and ends this

    for number in _ENDING:
        loop.add_signal_handler(number, kill)
    try:
        yield
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


async def _kill(agent: Agent, pid: int) -> None:
    with contextlib.suppress(CliError):
        await agent.call("SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
