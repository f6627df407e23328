"""`sandpit sandbox` against a real server: every command, its JSON, its exit status, what it says when it cannot."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from tests.cli.user import SECONDS, User, until

if TYPE_CHECKING:
    from pathlib import Path


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["sandboxID"] for one in found]


def test_list_and_info(user: User) -> None:
    assert user("sandbox", "list") == "No sandboxes found\n"
    assert user.json("sandbox", "list") == []
    one = user(
        "sandbox", "create", "-d", "-m", "job=a,kind=x", "--timeout", "600", "--sandbox-env", "GREETING=hi"
    ).strip()
    other = user.create(metadata={"job": "\x1b[31mb"})
    assert ids(user.json("sandbox", "list")) == [one, other]
    assert ids(user.json("sandbox", "ls", "-o", "desc", "-l", "1")) == [other]
    assert ids(user.json("sbx", "list", "-m", "job=a", "-t", "base", "-s", "running,paused")) == [one]
    assert user.json("sandbox", "list", "--template", "none") == user.json("sandbox", "list", "-s", "paused") == []
    assert json.loads(user("sandbox", "list", "-f", "json"))[0]["metadata"] == {"job": "a", "kind": "x"}
    text = user("sandbox", "list")
    assert re.search(rf"(?m)^{one} +base .* running +2 +\d+ +job=a kind=x$", text)
    assert "\x1b" not in text
    assert "job=\\u001b[31mb" in text

    info = user.json("sandbox", "info", one)
    assert (info["sandboxID"], info["state"], info["metadata"]["job"]) == (one, "running", "a")
    assert "envdAccessToken" not in info
    assert re.search(r"(?m)^State: +running$", user("sandbox", "info", one))
    assert user("sandbox", "exec", one, "echo $GREETING") == "hi\n"


def test_pause_resume_fork_kill(user: User, sandbox: str) -> None:
    user("sandbox", "exec", sandbox, "echo kept > /tmp/note")
    assert user("sandbox", "pause", sandbox) == f"Sandbox {sandbox} has been paused\n"
    assert user("sandbox", "pause", sandbox) == f"Sandbox {sandbox} is already paused\n"
    assert user.state(sandbox) == "paused"
    assert user.json("sandbox", "resume", sandbox, "--timeout", "500")["sandboxID"] == sandbox
    copies = user("sandbox", "fork", sandbox, "--count", "2").split()
    assert len(set(copies)) == 2
    assert user("sandbox", "exec", copies[1], "cat", "/tmp/note") == "kept\n"

    assert user("sandbox", "kill", sandbox, copies[0]).count("has been killed") == 2
    assert user.state(sandbox) == "gone"
    done = user.run("sandbox", "kill", sandbox)
    assert (done.returncode, done.stderr) == (1, f"Sandbox {sandbox} wasn't found\n".encode())
    assert user.refused("sandbox", "kill", "--all")[0] == 2
    assert user.json("sandbox", "kill", "--all", "--yes") == [{"sandboxID": copies[1], "killed": True}]
    assert user("sandbox", "kill", "--all") == "No sandboxes to kill\n"


def test_exec(user: User, sandbox: str) -> None:
    done = user.run("sandbox", "exec", sandbox, "--", "sh", "-c", "echo out; echo 'the why' >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"the why\n")
    options = ("-u", "root", "-c", "/tmp", "-e", "A=x=y", "-e", "B=two words")
    assert user("sandbox", "exec", *options, sandbox, 'id -un; pwd; echo "$A|$B"') == "root\n/tmp\nx=y|two words\n"
    assert user("sandbox", "exec", sandbox, "printf", "%s|", "a b", "$HOME", "it's", "-c") == "a b|$HOME|it's|-c|"
    assert user.run("sandbox", "exec", sandbox, "kill -9 $$").returncode == 255


def test_exec_passes_bytes(user: User, sandbox: str) -> None:
    """Both ways, as they are, more than a pipe or a message holds; and an end of input."""
    data = bytes(range(256)) * 3000
    done = user.run("sandbox", "exec", sandbox, "cat", stdin=data)
    assert (done.returncode, done.stdout) == (0, data)
    assert user.run("sandbox", "exec", sandbox, "wc -c", stdin=b"").stdout.strip() == b"0"
    assert user.run("sandbox", "exec", sandbox, "head -c 3", stdin=data).stdout == data[:3]


def test_exec_ends_with_its_reader_or_by_a_signal(user: User, sandbox: str) -> None:
    def running() -> int:
        return int(user.run("sandbox", "exec", sandbox, "pgrep -fc '^yes|^sleep 12[3]' || true").stdout)

    with subprocess.Popen(
        [*user.program, "sandbox", "exec", sandbox, "yes"], env=user.environment, stdout=subprocess.PIPE
    ) as endless:
        assert endless.stdout is not None
        endless.stdout.read(100)
        endless.stdout.close()
        assert endless.wait(SECONDS) == 1
    with subprocess.Popen(
        [*user.program, "sandbox", "exec", sandbox, "echo up; exec sleep 123"],
        env=user.environment,
        stdout=subprocess.PIPE,
    ) as sleeping:
        assert sleeping.stdout is not None
        assert sleeping.stdout.read(3) == b"up\n"
        sleeping.send_signal(signal.SIGINT)
        assert sleeping.wait(SECONDS) == 255
    assert until(lambda: running() == 0)


def test_exec_in_the_background(user: User, sandbox: str) -> None:
    pid = user("sandbox", "exec", "--background", sandbox, "exec sleep 1000").strip()
    assert user("sandbox", "exec", sandbox, f"cat /proc/{pid}/comm") == "sleep\n"


def test_logs(user: User, sandbox: str) -> None:
    user("sandbox", "exec", sandbox, "true")

    def lines(*options: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in user("sandbox", "logs", sandbox, "--json", *options).splitlines()]

    until(lambda: any(line["message"] == "process ended" for line in lines()))
    first = lines()[0]
    assert (first["level"], first["logger"], first["message"]) == ("info", "sandbox", "sandbox created")
    assert {line["logger"] for line in lines("--loggers", "process,filesystem")} == {"process"}
    assert lines("--level", "ERROR") == []
    assert {line["level"] for line in lines("--level", "debug")} == {"debug", "info"}
    text = user("sandbox", "logs", sandbox, "--loggers", "process")
    assert re.search(
        r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z INFO  process    process ended  pid=\d+  exitCode=0", text
    )
    user.kill(sandbox)
    assert lines()[-1]["message"] == "sandbox ended: killed"
    status, text = user.refused("sandbox", "logs", "inothing")
    assert status == 1
    assert "has no log" in text
    assert user.refused("sandbox", "logs", sandbox, "--level", "loud")[0] == 2


def test_follow_logs_until_the_end(user: User, sandbox: str) -> None:
    with subprocess.Popen(
        [*user.program, "sandbox", "logs", "-f", "--format", "json", sandbox], env=user.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        assert "sandbox created" in following.stdout.readline()
        user("sandbox", "exec", sandbox, "echo seen live")
        started = json.loads(following.stdout.readline())
        assert "seen live" in started["cmd"]
        assert json.loads(following.stdout.readline())["pid"] == started["pid"]
        user.kill(sandbox)
        rest, words = following.communicate(timeout=SECONDS)
        assert [json.loads(line)["message"] for line in rest.splitlines()] == ["sandbox ended: killed"]
        assert "the sandbox has ended" in words
        assert following.returncode == 0


def test_metrics(user: User, sandbox: str) -> None:
    text = until(lambda: user("sandbox", "metrics", sandbox))
    assert re.search(r"CPU +\d+\.\d % of 2 cores +memory +\d+ of \d+ MiB +disk +\d+ of \d+ MiB", text)
    assert json.loads(user("sandbox", "metrics", sandbox, "--json").splitlines()[0])["cpuCount"] == 2


def test_what_is_refused(user: User, tmp_path: Path) -> None:
    """Each tells what to do."""
    for command in ("info", "pause", "resume", "fork", "metrics", "kill"):
        status, text = user.refused("sandbox", command)
        assert (status, "no terminal to choose one in" in text, "sandpit sandbox list" in text) == (2, True, True)
        if command != "kill":
            status, text = user.refused("sandbox", command, "inothing")
            assert (status, "not found" in text, "hint:" in text) == (1, True, True)
    for arguments in (["create"], ["spawn", "base"], ["connect", "inothing"]):
        status, text = user.refused("sandbox", *arguments)
        assert (status, "is none" in text, "hint:" in text) == (2, True, True)
    assert user.json("sandbox", "list") == []  # nothing was started for a terminal that is not there
    for wrong in (["-m", "x"], ["--on-timeout", "sleep"], ["--auto-resume"], ["--sandbox-env", "=x"]):
        assert user.refused("sandbox", "create", "-d", *wrong)[0] == 2
    status, text = user.refused("sandbox", "list", E2B_API_KEY="e2b_" + "0" * 40)
    assert (status, "the environment" in text, "auth login" in text) == (1, True, True)
    status, text = user.refused("sandbox", "list", E2B_API_URL="http://127.0.0.1:9")
    assert (status, "cannot be reached" in text, "sandpit status" in text) == (1, True, True)
    assert "no address" in user.refused("sandbox", "list", E2B_API_URL="http://[")[1]
    assert user.refused("sandbox", "list", "--format", "xml")[0] == 2
    status, text = user.refused("sandbox", "create", "-d", "no-such-template")
    assert (status, "no-such-template" in text) == (1, True)


def test_completion(user: User, sandbox: str) -> None:
    words = f"sandpit sandbox info {sandbox[:5]}"
    given = {"_SANDPIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    script = "import sys; sys.argv[0] = 'sandpit'; from sandpit.cli.main import main; main()"
    done = subprocess.run(
        [user.program[0], "-P", "-c", script], env=user.environment | given, capture_output=True, text=True, check=False
    )
    assert sandbox in done.stdout.split()
