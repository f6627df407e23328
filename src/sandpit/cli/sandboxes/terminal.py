"""`sandpit sandbox connect` and `create`: this terminal becomes one in a sandbox, and itself again on every way out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import typer

from sandpit.cli.agent import Agent
from sandpit.cli.client import Api, Json, path_of
from sandpit.cli.errors import CliError
from sandpit.cli.sandboxes import choose
from sandpit.cli.sandboxes.execute import write_all
from sandpit.cli.sandboxes.sandbox import CONNECT_SECONDS, pairs

_KEEP_ALIVE_SECONDS = 5.0
_ALIVE_SECONDS = 30
"""A sandbox that belongs to this terminal lives so much longer than the terminal, should this process be killed."""
_READ_BYTES = 64 << 10
_MODES = re.compile(rb"\x1b\[\?([0-9;]+)([hl])")
_RESET = b"\x1b[0m"
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@dataclass(slots=True)
class Session:
    """How the shell is started."""

    user: str | None = None
    cwd: str | None = None
    env: list[str] = field(default_factory=list)

    def message(self) -> Json:
        """What the agent is asked for."""
        envs = {"TERM": os.environ.get("TERM") or "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
        if colours := os.environ.get("COLORTERM"):
            envs["COLORTERM"] = colours
        process: Json = {"cmd": "/bin/bash", "args": ["-i", "-l"], "envs": envs | pairs(self.env, "--env")}
        if self.cwd:
            process["cwd"] = self.cwd
        return {"process": process, "pty": {"size": _size()}}


def need_terminal(hint: str) -> None:
    """Raises: CliError unless both sides of the conversation are a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CliError("this opens a terminal, and standard input or output is none", hint, status=choose.MISUSE)


def connect(sandbox_id: str | None, session: Session) -> None:
    """A terminal in a sandbox that goes on afterwards. Raises: CliError, typer.Exit with the shell's status."""
    need_terminal("`sandpit sandbox exec` runs a command without one")
    with Api() as api:
        sandbox = api.connect(choose.sandbox_id(api, sandbox_id, states="running,paused"), CONNECT_SECONDS)
        typer.echo(f"Terminal connecting to sandbox {sandbox['sandboxID']}", err=True)
        status = asyncio.run(_talk(Agent(api.account, sandbox, session.user), session, None))
        typer.echo(f"Closing terminal connection to sandbox {sandbox['sandboxID']}", err=True)
    raise typer.Exit(status)


def spawn(body: Json, timeout: int | None, session: Session) -> None:
    """A terminal in a new sandbox, which ends with it unless it was given a timeout. Raises: as `connect`."""
    need_terminal("add --detach to create a sandbox without one")
    with Api() as api:
        made = api.call("POST", "/v2/sandboxes", body)
        name = made["sandboxID"]
        typer.echo(f"Terminal connecting to sandbox {name}", err=True)

        def extend() -> None:
            api.call("POST", f"{path_of(name)}/timeout", {"timeout": timeout or _ALIVE_SECONDS})

        try:
            status = asyncio.run(_talk(Agent(api.account, made, session.user), session, extend))
        finally:
            if timeout is None:
                with contextlib.suppress(CliError):
                    api.call("DELETE", path_of(name))
        what = "Closed" if timeout is None else "Closing terminal connection to"
        typer.echo(f"{what} sandbox {name}", err=True)
    raise typer.Exit(status)


async def _talk(agent: Agent, session: Session, extend: Callable[[], None] | None) -> int:
    """The shell's exit status. Raises: CliError."""
    async with agent, agent.start(session.message()) as events:
        pid = (await anext(events))["start"]["pid"]
        with _raw_terminal() as screen:
            talk = _Talk(agent, pid, screen)
            helpers = [asyncio.ensure_future(talk.send_input())]
            if extend is not None:
                helpers.append(asyncio.ensure_future(_keep_alive(extend)))
            with talk.listening():
                showing = asyncio.ensure_future(talk.show(events))
                talk.end = showing.cancel
                try:
                    return await showing
                finally:
                    for helper in helpers:
                        helper.cancel()
                    await asyncio.gather(*helpers, return_exceptions=True)


class _Talk:
    """Keys and sizes one way, output the other."""

    def __init__(self, agent: Agent, pid: int, screen: _Screen) -> None:
        self._agent = agent
        self._process = {"process": {"pid": pid}}
        self._screen = screen
        self._typed = bytearray()
        self._resized = False
        self._wake = asyncio.Event()
        self.end: Callable[[], object] = lambda: None

    async def show(self, events: AsyncIterator[Json]) -> int:
        """Write what the shell writes, until it ends."""
        async for event in events:
            if data := event.get("data"):
                self._screen.write(base64.b64decode(data.get("pty", "")))
            elif end := event.get("end"):
                return int(end.get("exitCode", 0)) if end.get("exited") else 0
        return 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take keys, new sizes, and signals that end this process."""
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._read)
        loop.add_signal_handler(signal.SIGWINCH, self._resize)
        for number in _ENDING:
            loop.add_signal_handler(number, lambda: self.end())
        try:
            yield
        finally:
            loop.remove_reader(0)
            for number in (signal.SIGWINCH, *_ENDING):
                loop.remove_signal_handler(number)

    def _read(self) -> None:
        try:
            data = os.read(0, _READ_BYTES)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            asyncio.get_running_loop().remove_reader(0)
            self.end()
            return
        self._typed += data
        self._wake.set()

    def _resize(self) -> None:
        self._resized = True
        self._wake.set()

    async def send_input(self) -> None:
        """In order; what is typed while a request is under way goes with the next one."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(CliError):  # a shell that has ended tells so itself
                if self._resized:
                    self._resized = False
                    await self._agent.call("Update", {**self._process, "pty": {"size": _size()}})
                while self._typed:
                    typed = bytes(self._typed)
                    self._typed.clear()
                    pty = base64.b64encode(typed).decode()
                    await self._agent.call("SendInput", {**self._process, "input": {"pty": pty}})


class _Screen:
    """Writes to the terminal, and remembers which modes the other side has left switched on."""

    _UNDONE = frozenset({b"1", b"1000", b"1002", b"1003", b"1004", b"1006", b"1049", b"2004"})

    def __init__(self) -> None:
        self._on: set[bytes] = set()
        self._hidden = False

    def write(self, data: bytes) -> None:
        for numbers, state in _MODES.findall(data):
            for number in numbers.split(b";"):
                if number == b"25":
                    self._hidden = state == b"l"
                elif state == b"h":
                    self._on.add(number)
                else:
                    self._on.discard(number)
        write_all(1, data)

    def reset(self) -> None:
        """Switch off what would disturb the shell here: alternate screen, mouse, bracketed paste, colours."""
        undo = b"".join(b"\x1b[?%bl" % number for number in sorted(self._on & self._UNDONE))
        with contextlib.suppress(OSError):
            write_all(1, undo + (b"\x1b[?25h" if self._hidden else b"") + _RESET)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[_Screen]:
    """Keys go through as they are, Ctrl-C too; whatever happens, the terminal is then as it was."""
    before, screen = termios.tcgetattr(0), _Screen()
    try:
        tty.setraw(0)
        yield screen
    finally:
        screen.reset()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)


async def _keep_alive(extend: Callable[[], None]) -> None:
    while True:
        with contextlib.suppress(CliError):  # the shell's end tells it if the sandbox is gone
            await asyncio.to_thread(extend)
        await asyncio.sleep(_KEEP_ALIVE_SECONDS)


def _size() -> dict[str, int]:
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return {"cols": 80, "rows": 24}
    return {"cols": size.columns or 80, "rows": size.lines or 24}
