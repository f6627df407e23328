"""What a log tells of a sandbox: processes, files, ports, terminals, its life; and that it outlives the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

import e2b
import pytest
from tests.logs.conftest import Logs, messages, pick

if TYPE_CHECKING:
    from tests.live import Live

pytestmark = pytest.mark.official_client


def test_a_life(clients: dict[str, str], logs: Logs) -> None:
    """Everything in one sandbox, read after its end, in order."""
    with e2b.Sandbox.create(timeout=300) as sandbox:
        name = sandbox.sandbox_id
        sandbox.commands.run("echo hello world", cwd="/tmp", user="root")
        with pytest.raises(e2b.CommandExitException):
            sandbox.commands.run("exit 7")
        sleeping = sandbox.commands.run("sleep 1000", background=True)
        sleeping.kill()
        sandbox.files.write("/home/user/notes/a.txt", "text")
        sandbox.files.read("/home/user/notes/a.txt")
        sandbox.files.make_dir("/home/user/new")
        sandbox.files.rename("/home/user/notes/a.txt", "/home/user/new/b.txt")
        sandbox.files.list("/home/user/new")
        sandbox.files.remove("/home/user/new/b.txt")
        terminal = sandbox.pty.create(e2b.PtySize(24, 80))
        terminal.kill()
        sandbox.set_timeout(200)
        logs.until_said(name, "terminal was ended")

    lines = logs(name)
    first, last = lines[0], lines[-1]
    assert (first["message"], first["fields"]["logger"]) == ("sandbox created", "sandbox")
    assert (last["message"], last["fields"]["reason"]) == ("sandbox ended: killed", "killed")
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)

    started = [line for line in lines if line["message"] == "process started"]
    hello = started[0]["fields"]
    assert hello["logger"] == "process"
    assert "echo hello world" in hello["cmd"]
    assert (hello["cwd"], hello["user"]) == ("/tmp", "root")
    ended = {line["fields"]["pid"]: line["fields"] for line in lines if line["message"] == "process ended"}
    assert ended[hello["pid"]]["exitCode"] == "0"
    assert float(ended[hello["pid"]]["seconds"]) >= 0
    assert [fields["exitCode"] for fields in ended.values()] == ["0", "7"]
    killed = pick(lines, "process was ended")
    assert (killed["level"], killed["fields"]["signal"], killed["fields"]["pid"]) == (
        "warn", "killed", started[2]["fields"]["pid"],
    )  # fmt: skip

    files = [
        (line["level"], line["message"], line["fields"].get("path"), line["fields"].get("to"))
        for line in lines
        if line["fields"]["logger"] == "filesystem"
    ]
    assert files == [
        ("info", "file written", "/home/user/notes/a.txt", None),
        ("debug", "file read", "/home/user/notes/a.txt", None),
        ("info", "directory made", "/home/user/new", None),
        ("info", "moved", "/home/user/notes/a.txt", "/home/user/new/b.txt"),
        ("debug", "directory listed", "/home/user/new", None),
        ("info", "removed", "/home/user/new/b.txt", None),
    ]
    told = [line["message"] for line in lines if line["fields"]["logger"] == "terminal"]
    assert told == ["terminal started", "terminal was ended"]
    assert pick(lines, "timeout set")["level"] == "debug"


def test_the_last_event_before_a_kill(clients: dict[str, str], logs: Logs) -> None:
    """What nobody had asked for yet is fetched first. Once is enough: on a busy machine a kill does not wait for long."""
    for _ in range(10):
        with e2b.Sandbox.create() as sandbox:
            sandbox.commands.run("true")
        if "process ended" in messages(logs(sandbox.sandbox_id)):
            return
    pytest.fail("no log tells of a command that had ended before its sandbox")


def test_filters(clients: dict[str, str], logs: Logs) -> None:
    with e2b.Sandbox.create() as sandbox:
        name = sandbox.sandbox_id
        sandbox.files.write("/tmp/needle.txt", "")
        sandbox.files.read("/tmp/needle.txt")
        with pytest.raises(e2b.InvalidArgumentException):
            sandbox.commands.run("true", cwd="/nowhere")
        logs.until_said(name, "process could not be started")
    assert messages(logs(name, loggers="file")) == ["file written", "file read"]
    assert messages(logs(name, loggers="filesystem,sandbox", level="info")) == [
        "sandbox created", "file written", "sandbox ended: killed",
    ]  # fmt: skip
    refused = pick(logs(name, level="warn"), "process could not be started")
    assert "/nowhere" in refused["fields"]["reason"]
    assert messages(logs(name, direction="backward", limit=1)) == ["sandbox ended: killed"]


def test_a_port_that_opens(clients: dict[str, str], logs: Logs) -> None:
    with e2b.Sandbox.create() as sandbox:
        sandbox.commands.run("python3 -m http.server 8123", background=True)
        line = pick(logs.until_said(sandbox.sandbox_id, "port is listening"), "port is listening")
        assert (line["level"], line["fields"]) == ("info", {"logger": "network", "port": "8123"})


def test_pause_resume_and_fork(clients: dict[str, str], live: Live, logs: Logs) -> None:
    """A log goes on where it ended, no event twice; a copy's begins with itself."""
    with e2b.Sandbox.create() as sandbox:
        name = sandbox.sandbox_id
        sandbox.commands.run("echo before")
        sandbox.pause()
        sandbox.connect()
        sandbox.commands.run("echo after")
        (fork,) = live.api.post(f"/sandboxes/{name}/fork", json={"count": 1, "timeout": 60}).json()
        copy = fork["sandbox"]["sandboxID"]
        sandbox.commands.run("echo origin only")
        with e2b.Sandbox.connect(copy) as other:
            other.commands.run("echo copy only")
            logs.until_said(copy, "process ended")
        logs.until(name, lambda lines: messages(lines).count("process ended") == 3)
    told = [line["fields"].get("cmd", line["message"]).rpartition("echo ")[2] for line in logs(name, level="info")]
    told = [text.strip("'") for text in told if not text.startswith("process ended")]
    assert told == [
        "sandbox created", "before", "sandbox paused", "sandbox resumed", "after", "sandbox forked",
        "origin only", "sandbox ended: killed",
    ]  # fmt: skip
    lines = logs(copy, level="info")
    assert [line["fields"]["cmd"].rpartition("echo ")[2] for line in lines if "cmd" in line["fields"]] == ["copy only'"]
    assert pick(lines, "made as a fork")["fields"]["originID"] == name
