"""Commands (current-protocol 11.5)."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from typing import TYPE_CHECKING, Any

import e2b
import pytest
from tests.clients.flavours import got, until

if TYPE_CHECKING:
    from tests.clients.flavours import Create, Flavour

    Sandbox = Any


async def alive(sandbox: Sandbox, pid: int) -> bool:
    """Whether the next command can still signal a process."""
    try:
        await got(sandbox.commands.run(f"kill -0 {pid}"))
    except e2b.CommandExitException:
        return False
    return True


async def test_output_and_exit_code(sandbox: Sandbox) -> None:
    done = await got(sandbox.commands.run("echo out; echo err >&2"))
    assert (done.stdout, done.stderr, done.exit_code, done.error) == ("out\n", "err\n", 0, None)
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(sandbox.commands.run("echo out; echo err >&2; exit 3"))
    failure = raised.value
    assert (failure.stdout, failure.stderr, failure.exit_code) == ("out\n", "err\n", 3)
    assert failure.error == "exit status 3"


TEXTS = ("!@#$%^&*()_+{}[]|\\:;\"'<>,.?/~`", "first\nsecond\n\nlast", "zażółć 日本語 🎉", " spaced  out ", "%s %d \\n")


async def test_text_arrives_unchanged(sandbox: Sandbox) -> None:
    for text in TEXTS:
        quoted = "'" + text.replace("'", "'\\''") + "'"
        assert (await got(sandbox.commands.run(f"printf %s {quoted}"))).stdout == text


async def test_scripts(sandbox: Sandbox) -> None:
    script = "total=0\nfor n in 1 2 3; do\n  total=$((total + n))\ndone\ncat <<END\nsum $total\nEND\n"
    assert (await got(sandbox.commands.run(script))).stdout == "sum 6\n"
    assert (await got(sandbox.commands.run("shopt -q login_shell && echo login"))).stdout == "login\n"


async def test_bytes_that_are_no_text(sandbox: Sandbox) -> None:
    done = await got(sandbox.commands.run("head -c 8191 /dev/zero | tr '\\0' a; printf '\\xe2'"))
    assert done.stdout == 8191 * "a" + "\N{REPLACEMENT CHARACTER}"
    assert done.exit_code == 0


async def test_large_output_is_complete(sandbox: Sandbox) -> None:
    """More than any buffer on the way, with characters across the edges of chunks."""
    program = "print('é☃🎉x' * 800_000, end='')"
    done = await got(sandbox.commands.run(f'python3 -c "{program}"'))
    expected = "é☃🎉x" * 800_000
    assert hashlib.sha256(done.stdout.encode()).digest() == hashlib.sha256(expected.encode()).digest()


async def test_callbacks_get_the_output_as_it_comes(sandbox: Sandbox, flavour: Flavour) -> None:
    """The command goes on only when its first line was seen: nothing on the way holds output back."""
    seen: list[str] = []
    errors: list[str] = []
    helper = e2b.Sandbox.connect(sandbox.sandbox_id)

    def on_stdout(text: str) -> None:
        seen.append(text)
        if text == "first\n":
            helper.files.write("/tmp/seen", "")

    await got(sandbox.commands.run("rm -f /tmp/seen", user="root"))
    script = "echo first; while [ ! -e /tmp/seen ]; do sleep 0.02; done; echo second; echo odd >&2"
    done = await got(sandbox.commands.run(script, on_stdout=on_stdout, on_stderr=errors.append))
    assert seen == ["first\n", "second\n"]
    assert errors == ["odd\n"]
    assert done.stdout == "first\nsecond\n"


async def test_timeout(sandbox: Sandbox) -> None:
    assert (await got(sandbox.commands.run("echo fast", timeout=10))).exit_code == 0
    with pytest.raises(e2b.TimeoutException):
        await got(sandbox.commands.run("sleep 300", timeout=1))
    handle = await got(sandbox.commands.run("sleep 300", timeout=1, background=True))
    with pytest.raises(e2b.TimeoutException):
        await got(handle.wait())
    # The time limit ends the command itself, too.
    await until(lambda: gone(sandbox, handle.pid))


async def gone(sandbox: Sandbox, pid: int) -> bool:
    return not await alive(sandbox, pid)


async def test_no_timeout(sandbox: Sandbox) -> None:
    assert (await got(sandbox.commands.run("sleep 0.2; echo done", timeout=0))).stdout == "done\n"


async def test_environment(create: Create, flavour: Flavour) -> None:
    sandbox = await create(envs={"SHARED": "for all 'é\n2'", "OTHER": "global"})
    run = sandbox.commands.run
    shown = "python3 -c \"import os; print(*map(os.environ.get, ('SHARED', 'OTHER', 'OWN')), sep='|', end='')\""
    assert (await got(run(shown, envs={"OWN": "a b", "OTHER": "mine"}))).stdout == "for all 'é\n2'|mine|a b"
    assert (await got(run(shown))).stdout == "for all 'é\n2'|global|None"
    assert (await got(run(shown, user="root"))).stdout == "for all 'é\n2'|global|None"
    assert (await got(run("echo $OWN"))).stdout == "\n"
    info = await got(sandbox.get_info())
    told = await got(run("echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID"))
    assert told.stdout == f"true {sandbox.sandbox_id} {info.template_id}\n"
    assert (await got(run("echo $HOME $USER $LOGNAME $PATH"))).stdout.startswith("/home/user user user /")
    assert (await got(run("hostname"))).stdout == f"{sandbox.sandbox_id}\n"


async def test_users(sandbox: Sandbox) -> None:
    run = sandbox.commands.run
    assert (await got(run("whoami; pwd"))).stdout == "user\n/home/user\n"
    # The template's working directory holds for all users.
    assert (await got(run("whoami; pwd; echo $HOME", user="root"))).stdout == "root\n/home/user\n/root\n"
    assert (await got(run("[ $(id -u) != 0 ] && id -un && umask"))).stdout == "user\n0022\n"
    with pytest.raises(e2b.AuthenticationException, match="invalid username: 'nobody-here'"):
        await got(run("true", user="nobody-here"))


async def test_sudo(sandbox: Sandbox) -> None:
    run = sandbox.commands.run
    assert (await got(run("sudo whoami"))).stdout == "root\n"
    assert (
        await got(run("sudo -n -u user id -un; sudo -iu root pwd; sudo pwd", cwd="/tmp"))
    ).stdout == "user\n/root\n/tmp\n"
    assert (await got(run("echo piped | sudo tee /root/piped; sudo stat -c %U /root/piped"))).stdout == "piped\nroot\n"
    told = await got(run("sudo OWN='a b' sh -c 'echo $OWN $HOME $USER $SUDO_USER $PLAIN'", envs={"PLAIN": "lost"}))
    assert told.stdout == "a b /root root user\n"
    assert (await got(run("sudo -E sh -c 'echo $PLAIN'", envs={"PLAIN": "kept"}))).stdout == "kept\n"
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(run("sudo sh -c 'echo out; echo err >&2; exit 9'"))
    assert (raised.value.exit_code, raised.value.stdout, raised.value.stderr) == (9, "out\n", "err\n")
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(run("sudo no-such-command"))
    assert "command not found" in raised.value.stderr
    assert (await got(run("sudo sudo -u user sudo id -u"))).stdout == "0\n"


async def test_sudo_is_for_whom_a_rule_names(create: Create) -> None:
    sandbox = await create()
    await got(sandbox.commands.run("useradd -m other", user="root"))
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(sandbox.commands.run("sudo -n id", user="other"))
    assert raised.value.stdout == ""
    await got(sandbox.commands.run("echo '%games ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/games", user="root"))
    await got(sandbox.commands.run("usermod -aG games other", user="root"))
    assert (await got(sandbox.commands.run("sudo -n id -u", user="other"))).stdout == "0\n"
    await got(sandbox.commands.run("rm /etc/sudoers.d/user", user="root"))
    with pytest.raises(e2b.CommandExitException):
        await got(sandbox.commands.run("sudo -n id"))


async def test_what_sudo_started_ends_with_its_command(sandbox: Sandbox) -> None:
    count = "pgrep -cxf 'sleep 31[7-9]' || true"
    handle = await got(sandbox.commands.run("sudo sleep 317", background=True))
    await until(lambda: counted(sandbox, count, "1"))
    assert await got(handle.kill())
    await until(lambda: counted(sandbox, count, "0"))
    with pytest.raises(e2b.CommandExitException):
        await got(sandbox.commands.run("timeout 1 sudo sleep 318"))
    await until(lambda: counted(sandbox, count, "0"))
    with pytest.raises(e2b.TimeoutException):
        await got(sandbox.commands.run("sudo sleep 319", timeout=1))
    await until(lambda: counted(sandbox, count, "0"))


async def counted(sandbox: Sandbox, command: str, expected: str) -> bool:
    done: e2b.CommandResult = await got(sandbox.commands.run(command))
    return done.stdout.strip() == expected


async def test_working_directories(sandbox: Sandbox) -> None:
    run = sandbox.commands.run
    assert (await got(run("pwd", cwd="/tmp"))).stdout == "/tmp\n"
    assert (await got(run("mkdir -p ~/sub/deep && pwd", cwd="~"))).stdout == "/home/user\n"
    assert (await got(run("pwd", cwd="sub"))).stdout == "/home/user/sub\n"
    assert (await got(run("pwd", cwd="~/sub/deep"))).stdout == "/home/user/sub/deep\n"
    await got(run("rmdir ~/sub/deep"))
    with pytest.raises(e2b.InvalidArgumentException, match="cwd '/home/user/sub/deep' does not exist"):
        await got(run("pwd", cwd="~/sub/deep"))
    with pytest.raises(e2b.SandboxException):
        await got(run("pwd", cwd="/root"))


async def test_a_directory_deleted_under_a_command(sandbox: Sandbox) -> None:
    script = "mkdir /tmp/doomed && cd /tmp/doomed && rmdir /tmp/doomed && ls . && echo survived && touch x"
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(sandbox.commands.run(script))
    assert raised.value.exit_code != 0


async def test_background_list_and_kill(sandbox: Sandbox) -> None:
    commands = sandbox.commands
    one = await got(commands.run("sleep 301", background=True, envs={"A": "b"}, cwd="/tmp"))
    two = await got(commands.run("sleep 302", background=True))
    listed = {info.pid: info for info in await got(commands.list())}
    assert {one.pid, two.pid} <= set(listed)
    assert listed[one.pid].cmd == "/bin/bash"
    assert listed[one.pid].args == ["-l", "-c", "sleep 301"]
    assert listed[one.pid].envs == {"A": "b"}
    assert listed[one.pid].cwd == "/tmp"

    assert await alive(sandbox, one.pid)
    assert await got(one.kill()) is True
    assert not await alive(sandbox, one.pid)  # reaped, too: a zombie could be signalled
    assert await got(one.kill()) is False
    assert await got(commands.kill(two.pid)) is True
    assert not await alive(sandbox, two.pid)
    assert not {one.pid, two.pid} & {info.pid for info in await got(commands.list())}
    assert await got(commands.kill(999999)) is False
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(two.wait())
    assert raised.value.exit_code == -1
    assert raised.value.error == "signal: killed"


async def test_everything_listed_can_be_killed(create: Create) -> None:
    sandbox = await create()
    for command in ("sleep 30 && echo done", "cat", "python3 -m http.server 8123 & wait"):
        await got(sandbox.commands.run(command, background=True, stdin=True))
    listed = await got(sandbox.commands.list())
    assert len(listed) == 3
    for info in listed:
        assert await got(sandbox.commands.kill(info.pid))
    assert await got(sandbox.commands.list()) == []


async def test_connect(sandbox: Sandbox) -> None:
    handle = await got(sandbox.commands.run("read line; echo got $line; exit 4", background=True, stdin=True))
    again = await got(sandbox.commands.connect(handle.pid))
    assert again.pid == handle.pid
    await got(handle.disconnect())
    assert await alive(sandbox, again.pid)
    await got(sandbox.commands.send_stdin(again.pid, "it\n"))
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(again.wait())
    assert (raised.value.stdout, raised.value.exit_code) == ("got it\n", 4)
    with pytest.raises(e2b.NotFoundException, match="process with pid 999999 not found"):
        await got(sandbox.commands.connect(999999))


async def test_several_listeners_hear_the_same(sandbox: Sandbox) -> None:
    first = await got(sandbox.commands.run("cat", background=True, stdin=True))
    second = await got(sandbox.commands.connect(first.pid))
    await got(first.send_stdin("for both"))
    await got(first.close_stdin())
    assert (await got(first.wait())).stdout == (await got(second.wait())).stdout == "for both"


INPUTS = ("line\n", b"bytes \x00\x01", "", "!@#$%^&*()'\"\\", "one\ntwo\n\nthree", "日本語 🎉", 200_000 * "long ")


async def test_stdin_by_handle(sandbox: Sandbox) -> None:
    for data in INPUTS:
        handle = await got(sandbox.commands.run("cat", background=True, stdin=True))
        await got(handle.send_stdin(data))
        await got(handle.close_stdin())
        done = await got(handle.wait())
        assert (done.stdout, done.exit_code) == (data if isinstance(data, str) else data.decode(), 0)


async def test_stdin_by_pid(sandbox: Sandbox) -> None:
    for data in INPUTS:
        handle = await got(sandbox.commands.run("cat", background=True, stdin=True))
        await got(sandbox.commands.send_stdin(handle.pid, data))
        await got(sandbox.commands.close_stdin(handle.pid))
        done = await got(handle.wait())
        assert (done.stdout, done.exit_code) == (data if isinstance(data, str) else data.decode(), 0)


async def lost(sandbox: Sandbox) -> None:
    """Send to a process that is not there."""
    async with sandbox.commands.stream_input(999999) as stream:
        await stream.send("x")


async def test_streamed_stdin(sandbox: Sandbox, flavour: Flavour) -> None:
    handle = await got(sandbox.commands.run("cat", background=True, stdin=True))
    pieces = ["one ", b"two ", 100_000 * "x", " end"]
    if flavour.blocking:
        sandbox.commands.stream_input(handle.pid, pieces)
    else:
        async with sandbox.commands.stream_input(handle.pid) as stream:
            for piece in pieces:
                await stream.send(piece)
    await got(handle.close_stdin())
    assert (await got(handle.wait())).stdout == "one two " + 100_000 * "x" + " end"
    with pytest.raises(e2b.NotFoundException):
        await got(sandbox.commands.stream_input(999999, ["x"]) if flavour.blocking else lost(sandbox))


async def test_no_stdin(sandbox: Sandbox) -> None:
    with pytest.raises(e2b.CommandExitException) as raised:
        await got(sandbox.commands.run("read line", stdin=False))
    assert raised.value.exit_code == 1
    handle = await got(sandbox.commands.run("sleep 300", background=True, stdin=False))
    with pytest.raises(e2b.SandboxException):
        await got(handle.send_stdin("nobody reads"))
    assert await got(handle.kill())
    with pytest.raises(e2b.NotFoundException):
        await got(sandbox.commands.send_stdin(999999, "x"))


def test_iterating_a_blocking_handle(shared: e2b.Sandbox) -> None:
    handle = shared.commands.run("echo out; sleep 0.1; echo err >&2", background=True)
    assert list(handle) == [("out\n", None, None), (None, "err\n", None)]
    handle = shared.commands.run("sleep 300", timeout=1, background=True)
    with pytest.raises(e2b.TimeoutException):
        list(handle)


async def test_the_sandbox_is_killed_under_a_command(create: Create, flavour: Flavour) -> None:
    sandbox = await create()
    killer = e2b.Sandbox.connect(sandbox.sandbox_id)
    started = threading.Event()

    def kill() -> None:
        started.wait(20)
        killer.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(e2b.SandboxException, match="killed or reached its end of life"):
            await got(sandbox.commands.run("echo up; sleep 300", on_stdout=lambda _: started.set(), timeout=120))
    finally:
        started.set()
        thread.join()


async def test_many_at_once(sandbox: Sandbox, flavour: Flavour) -> None:
    if flavour.blocking:
        handles = [sandbox.commands.run(f"sleep 0.2; echo {n}", background=True) for n in range(20)]
        outputs = [handle.wait().stdout for handle in handles]
    else:
        done = await asyncio.gather(*(sandbox.commands.run(f"sleep 0.2; echo {n}") for n in range(20)))
        outputs = [one.stdout for one in done]
    assert outputs == [f"{n}\n" for n in range(20)]
