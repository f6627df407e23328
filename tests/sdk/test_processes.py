"""Processes, commands and terminals (the 2024 documentation, "Starting process inside a sandbox")."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
from tests.clients.flavours import got, until

from sandpit import (
    CommandExitException,
    CurrentWorkingDirectoryDoesntExistException,
    NotFoundException,
    ProcessException,
    ProcessOutput,
    SandboxNotOpenException,
    TimeoutException,
)

Sandbox = Any


async def lines(sandbox: Sandbox, command: str, **options: Any) -> list[str]:
    """What a command prints."""
    output: ProcessOutput = await got(sandbox.process.start_and_wait(command, **options))
    return output.stdout.splitlines()


async def test_output_in_lines(sandbox: Sandbox) -> None:
    process = await got(sandbox.process.start("printf 'one\\n\\ntwo'; echo err >&2; exit 3"))
    output = await got(process.wait())
    assert (output.stdout, output.stderr, output.exit_code, output.error) == ("one\n\ntwo", "err", 3, True)
    assert process.exit_code == 3
    assert [message.line for message in process.output_messages if not message.error] == ["one", "", "two"]
    assert sorted(message.timestamp for message in output.messages) == [one.timestamp for one in output.messages]


async def test_characters_that_arrive_in_pieces(sandbox: Sandbox) -> None:
    output = await got(sandbox.process.start_and_wait("printf '\\xf0\\x9f'; sleep 0.1; printf '\\x8e\\x89\\n\\xff'"))
    assert output.stdout == "\N{PARTY POPPER}\n\N{REPLACEMENT CHARACTER}"


async def test_environment(sandbox: Sandbox) -> None:
    sandbox.env_vars["FOO"] = "sandbox"
    assert await lines(sandbox, "echo $FOO $BAR $HOME", env_vars={"BAR": "b"}) == ["sandbox b /home/user"]
    assert await lines(sandbox, "echo $FOO", env_vars={"FOO": "process"}) == ["process"]
    assert (await got(sandbox.commands.run("echo $FOO $BAR", envs={"BAR": "b"}))).stdout == "sandbox b\n"


async def test_working_directory(sandbox: Sandbox) -> None:
    assert await lines(sandbox, "pwd") == ["/home/user"]
    sandbox.cwd = "/tmp"
    assert await lines(sandbox, "pwd") == ["/tmp"]
    assert await lines(sandbox, "pwd", cwd="/home") == ["/home"]
    assert await lines(sandbox, "pwd", cwd="~/") == ["/home/user"]
    with pytest.raises(CurrentWorkingDirectoryDoesntExistException, match=r"/missing.*\n hint: "):
        await got(sandbox.process.start("pwd", cwd="/missing"))


async def test_callbacks_of_a_process_replace_the_sandboxes(flavour: Any, base_id: str) -> None:
    said: list[Any] = []
    async with _opened(
        flavour,
        base_id,
        on_stdout=lambda line: said.append(("sandbox", line.line)),
        on_exit=lambda: said.append("ended"),
    ) as sandbox:
        await got(sandbox.process.start_and_wait("echo one; echo two >&2"))
        assert said == [("sandbox", "one"), "ended"]
        said.clear()
        await got(
            sandbox.process.start_and_wait(
                "echo one; echo two >&2; exit 4", lambda line: said.append(str(line)), said.append, said.append
            )
        )
        assert said[-1] == 4
        assert sorted(map(str, said[:-1])) == ["one", "two"]


async def test_a_callback_that_fails_loses_nothing(
    flavour: Any, base_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Any) -> None:
        raise KeyError(message.line)

    async with _opened(flavour, base_id, on_stdout=fail) as sandbox:
        assert (await got(sandbox.process.start_and_wait("echo one; echo two"))).stdout == "one\ntwo"
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError, KeyError]


async def test_standard_input(sandbox: Sandbox) -> None:
    process = await got(sandbox.process.start('read -r line; echo "got $line"'))
    await got(process.send_stdin("ping\n"))
    assert (await got(process.wait(30))).stdout == "got ping"
    with pytest.raises(NotFoundException):
        await got(process.send_stdin("late\n"))


async def test_kill_and_limits(sandbox: Sandbox) -> None:
    process = await got(sandbox.process.start("echo up; sleep 600"))
    await until(lambda: process.stdout == "up")
    with pytest.raises(ProcessException, match="has not ended"):
        print(process.exit_code)
    with pytest.raises(TimeoutException, match="it goes on"):
        await got(process.wait(timeout=0.05))
    await got(process.kill())
    assert process.exit_code == -1
    assert process.finished.done()
    await got(process.kill())  # that it has ended already is fine


async def test_the_end_of_the_object_ends_waiting(flavour: Any, base_id: str) -> None:
    async with _opened(flavour, base_id) as sandbox:
        process = await got(sandbox.process.start("sleep 600"))
    with pytest.raises(SandboxNotOpenException):
        await got(process.wait())
    async with _opened(flavour, base_id) as sandbox:  # the process itself went on
        assert await got(sandbox.commands.kill(process.pid))
        assert not await got(sandbox.commands.kill(process.pid))


async def test_a_callback_may_close_the_sandbox(flavour: Any, base_id: str) -> None:
    closing: list[Any] = []
    async with _opened(flavour, base_id, on_stdout=lambda _line: closing[0]()) as sandbox:
        closing.append(sandbox.close)
        process = await got(sandbox.process.start("sleep 0.2; echo; sleep 600"))
        with pytest.raises(SandboxNotOpenException):
            await got(process.wait(30))
        assert not sandbox.is_open
    async with _opened(flavour, base_id) as sandbox:
        assert await got(sandbox.commands.kill(process.pid))


async def test_commands(sandbox: Sandbox) -> None:
    pieces: list[str] = []
    result = await got(sandbox.commands.run("echo out; echo err >&2", on_stdout=pieces.append))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert "".join(pieces) == "out\n"
    assert (await got(sandbox.commands.run("id -un", user="root"))).stdout == "root\n"
    with pytest.raises(CommandExitException, match=r"exit code 7.*: bad") as raised:
        await got(sandbox.commands.run("echo out; echo bad >&2; exit 7"))
    assert (raised.value.exit_code, raised.value.stdout, raised.value.stderr) == (7, "out\n", "bad\n")


async def test_commands_in_the_background(sandbox: Sandbox) -> None:
    handle = await got(sandbox.commands.run("cat; echo end", background=True, stdin=True))
    await got(handle.send_stdin("text\n"))
    await until(lambda: handle.stdout == "text\n")
    found = [process for process in await got(sandbox.commands.list()) if process.pid == handle.pid]
    assert found[0].args[-1] == "cat; echo end"
    await got(handle.disconnect())
    again = await got(sandbox.commands.connect(handle.pid))
    await got(sandbox.commands.close_stdin(handle.pid))
    assert (await got(again.wait(30))).stdout == "end\n"


async def test_many_at_once_with_one_object(sandbox: Sandbox) -> None:
    """What is cut on the way must not be a connection that another call has come to use."""

    async def one(number: int) -> str:
        handle = await _beside(sandbox.commands.run, "sleep 600", background=True)
        result = await _beside(sandbox.commands.run, f"seq {number} | tail -1")
        await _beside(handle.disconnect)
        await _beside(sandbox.commands.kill, handle.pid)
        return str(result.stdout).strip()

    numbers = range(1000, 1008)
    assert await asyncio.gather(*map(one, numbers)) == list(map(str, numbers))


async def _beside(call: Any, *arguments: Any, **options: Any) -> Any:
    """A call of either flavour that leaves the loop to others."""
    if inspect.iscoroutinefunction(call):
        return await call(*arguments, **options)
    return await asyncio.to_thread(call, *arguments, **options)


async def test_a_command_is_killed_at_its_limit(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutException, match="was killed"):
        await got(sandbox.commands.run("exec -a limited sleep 600", timeout=0.5))
    with pytest.raises(CommandExitException):
        await got(sandbox.commands.run("pgrep -f '^limited '"))


async def test_terminal(sandbox: Sandbox) -> None:
    shown: list[str] = []
    ended = threading.Event()
    terminal = await got(
        sandbox.terminal.start(shown.append, 101, 33, "/tmp", on_exit=ended.set, env_vars={"FOO": "f"})
    )
    await got(terminal.send_data("stty size; echo $PWD-$FOO-$TERM\n"))
    await until(lambda: "33 101" in terminal.data and "/tmp-f-xterm-256color" in terminal.data)
    await got(terminal.resize(99, 11))
    await got(terminal.send_data("stty size\n"))
    await until(lambda: "11 99" in terminal.data)
    await got(terminal.send_data("exit 5\n"))
    assert (await got(terminal.wait(30))).data == "".join(shown)
    assert terminal.exit_code == 5
    assert ended.is_set()


async def test_terminal_with_a_command(sandbox: Sandbox) -> None:
    terminal = await got(sandbox.pty.create(cmd="tty && sleep 600"))
    await until(lambda: "/dev/pts/" in terminal.data)
    again = await got(sandbox.pty.connect(terminal.pid))
    await got(terminal.kill())
    await got(again.wait(30))
    assert again.exit_code == -1


async def test_async_callbacks(team: Any, base_id: str) -> None:
    from sandpit import AsyncSandbox

    said: list[str] = []

    async def slowly(line: Any) -> None:
        await asyncio.sleep(0.01)
        said.append(line.line)

    async with _opened(AsyncOnly(AsyncSandbox), base_id, on_stdout=slowly) as sandbox:
        await sandbox.process.start_and_wait("seq 3")
    assert said == ["1", "2", "3"]


class AsyncOnly:
    def __init__(self, cls: Any) -> None:
        self.Sandbox = cls


class _opened:
    """The module's sandbox through an object with options of its own."""

    def __init__(self, flavour: Any, sandbox_id: str, **options: Any) -> None:
        self._arguments = flavour, sandbox_id, options

    async def __aenter__(self) -> Sandbox:
        flavour, sandbox_id, options = self._arguments
        self._sandbox = await got(flavour.Sandbox.reconnect(sandbox_id, **options))
        return self._sandbox

    async def __aexit__(self, *_exception: object) -> None:
        await got(self._sandbox.close())
