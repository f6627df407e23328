"""Terminals (current-protocol 11.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import e2b
import pytest
from tests.clients.flavours import got

if TYPE_CHECKING:
    from tests.clients.flavours import Create, Flavour

    Sandbox = Any

SIZE = e2b.PtySize(rows=24, cols=80)


class Screen:
    """Collects a terminal's output, in both flavours; `replies` are typed when a text is seen."""

    def __init__(self, flavour: Flavour, sandbox: Sandbox) -> None:
        self.output = b""
        self.replies: dict[bytes, bytes] = {}
        self._pty = sandbox.pty
        self._blocking = flavour.blocking

    def _take(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self.output += data
        for text in [text for text in self.replies if text in self.output]:
            self._pty.send_stdin(self._pid, self.replies.pop(text))

    async def _take_later(self, data: bytes) -> None:
        self.output += data
        for text in [text for text in self.replies if text in self.output]:
            await self._pty.send_stdin(self._pid, self.replies.pop(text))

    async def create(self, **options: Any) -> Any:
        made = (
            self._pty.create(SIZE, **options) if self._blocking else self._pty.create(SIZE, self._take_later, **options)
        )
        return await self._of(made)

    async def connect(self, pid: int) -> Any:
        return await self._of(self._pty.connect(pid) if self._blocking else self._pty.connect(pid, self._take_later))

    async def _of(self, made: Any) -> Any:
        handle = await got(made)
        self._pid = handle.pid
        return handle

    async def finish(self, handle: Any) -> Any:
        return handle.wait(on_pty=self._take) if self._blocking else await handle.wait()


@pytest.fixture
def screen(flavour: Flavour, sandbox: Sandbox) -> Screen:
    return Screen(flavour, sandbox)


async def test_environment_directory_and_end(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create(envs={"GREETING": "hello-there"}, cwd="/", user="root")
    await got(sandbox.pty.send_stdin(handle.pid, b"echo =$GREETING=$PWD=$TERM=$LANG= $(whoami)\n"))
    await got(sandbox.pty.send_stdin(handle.pid, b"exit\n"))
    done = await screen.finish(handle)
    assert done.exit_code == 0
    assert b"=hello-there=/=xterm-256color=C.UTF-8= root\r\n" in screen.output


async def test_it_is_a_terminal_of_the_user(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    await got(sandbox.pty.send_stdin(handle.pid, b"tty; whoami; pwd; sleep 300 &\n"))
    await got(sandbox.pty.send_stdin(handle.pid, b"jobs; exit 7\n"))
    await got(sandbox.pty.send_stdin(handle.pid, b"exit 7\n"))
    with pytest.raises(e2b.CommandExitException) as raised:
        await screen.finish(handle)
    assert raised.value.exit_code == 7
    assert b"/dev/pts/" in screen.output
    assert b"user\r\n/home/user\r\n" in screen.output
    assert b"[1]+" in screen.output  # job control
    assert b"no job control" not in screen.output


async def test_size_and_resize(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    await got(sandbox.pty.send_stdin(handle.pid, b"echo before=$(tput cols)x$(tput lines)=\n"))
    await got(sandbox.pty.send_stdin(handle.pid, b"read -r; stty size; echo after=$(tput cols)=; exit\n"))
    await got(sandbox.pty.resize(handle.pid, e2b.PtySize(rows=30, cols=100)))
    await got(sandbox.pty.send_stdin(handle.pid, b"\n"))
    assert (await screen.finish(handle)).exit_code == 0
    assert b"30 100\r\n" in screen.output
    assert b"after=100=" in screen.output


async def test_first_size(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    await got(sandbox.pty.send_stdin(handle.pid, b"tput cols; tput lines; exit\n"))
    assert (await screen.finish(handle)).exit_code == 0
    assert b"80\r\n24\r\n" in screen.output


async def test_resize_right_after_create(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    await got(sandbox.pty.resize(handle.pid, e2b.PtySize(rows=24, cols=100)))
    await got(sandbox.pty.send_stdin(handle.pid, b"tput cols; exit\n"))
    assert (await screen.finish(handle)).exit_code == 0
    assert b"100\r\n" in screen.output


@pytest.mark.parametrize("program", ["sh", "sudo sh"])
async def test_control_keys(sandbox: Sandbox, screen: Screen, program: str) -> None:
    """^C interrupts what runs in the foreground: not the shell, so it is typed when the program itself has spoken."""
    screen.replies = {b"ready\r\n": b"\x03", b"\x03\r\n": b"echo status=$?; exit\n"}
    handle = await screen.create()
    command = f"{program} -c 'echo re\"\"ady; exec sleep 300'; echo never\n"
    await got(sandbox.pty.send_stdin(handle.pid, command.encode()))
    assert (await screen.finish(handle)).exit_code == 0
    assert b"status=130\r\n" in screen.output
    assert b"never\r\n" not in screen.output.partition(b"\x03")[2]


async def test_disconnect_and_connect(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    await got(handle.disconnect())
    again = await screen.connect(handle.pid)
    assert again.pid == handle.pid
    await got(sandbox.pty.send_stdin(again.pid, b"echo still=here; exit\n"))
    assert (await screen.finish(again)).exit_code == 0
    assert b"still=here\r\n" in screen.output


async def test_kill(sandbox: Sandbox, screen: Screen) -> None:
    handle = await screen.create()
    assert handle.pid in {info.pid for info in await got(sandbox.commands.list())}
    assert await got(sandbox.pty.kill(handle.pid)) is True
    with pytest.raises(e2b.CommandExitException):
        await got(sandbox.commands.run(f"kill -0 {handle.pid}"))
    assert await got(sandbox.pty.kill(handle.pid)) is False
    assert await got(sandbox.pty.kill(999999)) is False


async def test_streamed_input(sandbox: Sandbox, flavour: Flavour, screen: Screen) -> None:
    handle = await screen.create()
    pieces = [b"echo piece", b"=by=piece\n", "exit\n"]
    if flavour.blocking:
        sandbox.pty.stream_input(handle.pid, pieces)
    else:
        async with sandbox.pty.stream_input(handle.pid) as stream:
            for piece in pieces:
                await stream.send(piece)
    assert (await screen.finish(handle)).exit_code == 0
    assert b"piece=by=piece\r\n" in screen.output


async def test_time_limit(create: Create, flavour: Flavour) -> None:
    screen = Screen(flavour, sandbox := await create())
    handle = await screen.create(timeout=1)
    with pytest.raises(e2b.TimeoutException):
        await screen.finish(handle)
    assert await got(sandbox.is_running())


async def test_a_root_shell_has_a_terminal_and_ctrl_c(screen: Screen) -> None:
    """`sudo` gives a whole terminal: size, interrupt key, exit status, although gVisor itself cannot (agent.elevate)."""
    handle = await screen.create()
    wait = b"""bash -c 'trap "echo got int; exit 3" INT; echo wai""ting; while :; do sleep 0.1; done'"""
    screen.replies = {
        b"$ ": b"PS1='ma''rk> ' sudo -E bash --norc; echo le''ft $?\n",
        b"mark> ": b"whoami; stty size; " + wait + b"\n",
        b"waiting": b"\x03",
        b"int\r\n": b"exit 5\n",
        b"left 5": b"exit\n",
    }
    ended = await screen.finish(handle)
    assert ended.exit_code == 0
    assert b"root\r\n24 80\r\n" in screen.output
    assert b"left 5\r\n" in screen.output
