"""The official command line, unmodified: `node .../@e2b/cli/dist/index.js` (code-interpreter 3)."""

from __future__ import annotations

import hashlib
import json
import random
import re
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.clients.node_packages import needs_node, node_environment, node_modules
from tests.clients.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from tests.live import Live

pytestmark = needs_node
SECONDS = 50
_ID = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Cli:
    """`e2b` as a user has it who is not logged in and has set the three variables."""

    environment: dict[str, str]
    live: Live

    @property
    def program(self) -> list[str]:
        return ["node", f"{node_modules()}/@e2b/cli/dist/index.js"]

    def run(self, *arguments: str, stdin: bytes | None = None, **more: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end; without `stdin` its standard input is /dev/null."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(
            [*self.program, *arguments], env=self.environment | more, capture_output=True, timeout=SECONDS, check=False,
            text=False, **given,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.decode()

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        """A call to the API for the same team."""
        return self.live.api.request(method, path, headers={"X-API-KEY": self.environment["E2B_API_KEY"]}, **more)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--format", "json"))

    def create(self, template: str = "base", **body: Any) -> str:
        """A new sandbox's id; by the API, which is faster and takes metadata."""
        answer = self.api("POST", "/v2/sandboxes", json={"templateID": template, **body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sandboxID"])

    def state(self, sandbox: str) -> dict[str, Any] | None:
        """What the API says of a sandbox, None if it is gone."""
        answer = self.api("GET", f"/sandboxes/{sandbox}")
        return answer.json() if answer.status_code == 200 else None

    def end(self, sandbox: str) -> str:
        """When a sandbox ends, as RFC 3339."""
        state = self.state(sandbox)
        assert state is not None
        return str(state["endAt"])

    def kill(self, sandbox: str) -> None:
        self.api("DELETE", f"/sandboxes/{sandbox}")


@pytest.fixture(scope="module")
def user(live: Live, clients: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A team of its own, whose lists hold nothing of other tests."""
    key = live.another_team()
    home = str(tmp_path_factory.mktemp("home"))
    return Cli(node_environment(clients) | {"E2B_API_KEY": key, "HOME": home, "TZ": "UTC"}, live)


@pytest.fixture
def cli(user: Cli) -> Iterator[Cli]:
    """The command line; sandboxes that a test leaves are killed."""
    yield user
    for sandbox in user.api("GET", "/v2/sandboxes").json():
        user.kill(sandbox["sandboxID"])


@pytest.fixture
def sandbox(cli: Cli) -> str:
    return cli.create()


def until(question: Callable[[], Any]) -> Any:
    """Ask again until the answer is true, and fail when it never is."""
    deadline = time.monotonic() + 20
    while not (answer := question()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.05)
    return answer


# Without a login


def test_auth_info(cli: Cli) -> None:
    assert cli("auth", "info") == "Not logged in\n"


def test_a_key_is_needed(cli: Cli) -> None:
    done = cli.run("sandbox", "list", E2B_API_KEY="")
    assert done.returncode == 1
    assert b"must be logged in" in done.stderr
    refused = cli.run("sandbox", "list", E2B_API_KEY=f"e2b_{'0' * 40}")
    assert refused.returncode == 1
    assert b"AuthenticationError: Unauthorized, please check your credentials" in refused.stderr


def test_template_list(cli: Cli) -> None:
    header, *rows = cli("template", "list").strip().splitlines()
    assert " ".join(header.split()) == (
        "ACCESS TEMPLATE ID TEMPLATE NAME VCPUS RAM MIB CREATED BY CREATED AT DISK SIZE MIB ENVD VERSION"
    )
    assert {row.split()[1] for row in rows} == {"base", "code-interpreter-v1"}
    listed = cli.json("template", "list")
    assert {name for template in listed for name in template["aliases"]} >= {"base", "code-interpreter-v1"}


# Lists and descriptions


def test_create_list_info(cli: Cli) -> None:
    sandbox = cli("sandbox", "create", "base", "--detach", "--timeout", "120").strip()
    assert _ID.fullmatch(sandbox)
    [listed] = cli.json("sandbox", "list")
    info = cli.json("sandbox", "info", sandbox)
    expected = {"sandboxId": sandbox, "name": "base", "state": "running", "metadata": {}}
    for found in (listed, info):
        assert found | expected == found
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["startedAt"])
    assert info["lifecycle"] == {"onTimeout": "kill", "autoResume": False}
    assert info["allowInternetAccess"] is True
    assert "accessToken" not in json.dumps(info)
    header, row = cli("sandbox", "list").strip().splitlines()
    assert header.split()[:3] == ["SANDBOX", "ID", "TEMPLATE"]
    assert row.split()[0] == sandbox
    assert "Running" in row
    text = cli("sandbox", "info", sandbox)
    assert f"Sandbox info for {sandbox}:" in text
    assert "State: running" in text


def test_list_filters(cli: Cli) -> None:
    assert "No sandboxes found" in cli("sandbox", "list")
    one = cli.create(metadata={"who": "one & only", "run": "a"})
    two = cli.create(metadata={"who": "two", "run": "a"})

    def ids(*arguments: str) -> list[str]:
        return [item["sandboxId"] for item in cli.json("sandbox", "list", *arguments)]

    assert ids() == [one, two]
    assert ids("--order", "desc") == [two, one]
    assert ids("--metadata", "run=a,who=one & only") == [one]
    assert ids("--state", "paused") == []
    assert ids("--state", "running,paused", "--template", "base") == [one, two]
    assert ids("--template", "no-such-template") == []
    assert ids("--started-after", "2099-01-01") == []
    assert ids("--started-after", "2020-01-01T00:00:00Z", "--limit", "0") == [one, two]
    shown = cli("sandbox", "list", "--limit", "1")
    assert "Showing first 1 sandboxes. Use --limit to change." in shown
    assert '{"who":"two","run":"a"}' in shown or '{"run":"a","who":"two"}' in shown


def test_refusals(cli: Cli) -> None:
    gone = cli.run("sandbox", "info", "nonexistingsandbox")
    assert (gone.returncode, b"Sandbox nonexistingsandbox wasn't found" in gone.stderr) == (1, True)
    template = cli.run("sandbox", "create", "no-such-template", "--detach")
    assert (template.returncode, b"404" in template.stderr) == (1, True)
    executed = cli.run("sandbox", "exec", "nonexistingsandbox", "true")
    assert (executed.returncode, b"not found" in executed.stderr) == (1, True)


def test_kill(cli: Cli) -> None:
    one, two, three = (cli.create(metadata={"keep": keep}) for keep in ("no", "no", "yes"))
    done = cli.run("sandbox", "kill", one, "nonexistingsandbox")
    assert done.returncode == 0
    assert f"Sandbox {one} has been killed" in done.stdout.decode()
    assert b"Sandbox nonexistingsandbox wasn't found" in done.stderr
    assert (cli.state(one), bool(cli.state(two))) == (None, True)
    cli("sandbox", "kill", "--all", "--metadata", "keep=no")
    assert (cli.state(two), bool(cli.state(three))) == (None, True)
    four = cli.create()
    cli("sandbox", "kill", "--all")
    assert cli.state(three) is cli.state(four) is None
    assert "No running sandboxes" in cli("sandbox", "kill", "--all")
    assert cli.run("sandbox", "kill").returncode == 1


def test_metrics(cli: Cli, sandbox: str) -> None:
    def lines() -> list[str]:
        return cli("sandbox", "metrics", sandbox, "--format", "json").strip().splitlines()

    sample = json.loads(until(lines)[0])
    assert sample["cpuCount"] == 2
    assert 0 < sample["memUsed"] < sample["memTotal"]
    assert re.search(r"CPU: .* Memory: .* Disk: ", cli("sandbox", "metrics", sandbox))


def test_logs(cli: Cli, sandbox: str) -> None:
    def logs(*arguments: str) -> list[dict[str, Any]]:
        text = cli("sandbox", "logs", sandbox, "--format", "json", *arguments)
        return [json.loads(line) for line in text.strip().splitlines()]

    first = logs()[0]
    assert (first["level"], first["message"], first["logger"]) == ("info", "sandbox created", "sandbox")
    assert logs("--level", "DEBUG")[0] == first
    assert logs("--level", "ERROR") == []
    assert logs("--loggers", "sand")[0] == first
    assert logs("--loggers", "process") == []
    pretty = cli("sandbox", "logs", sandbox)
    assert f"Logs for sandbox {sandbox}:" in pretty
    assert re.search(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z\] INFO +.*sandbox created", pretty)

    cli("sandbox", "exec", sandbox, "echo in the log")
    until(lambda: "process ended" in [line["message"] for line in logs("--loggers", "process")])
    started, ended = logs("--loggers", "process,filesystem")
    assert (started["level"], started["message"], started["logger"]) == ("info", "process started", "process")
    assert "echo in the log" in started["cmd"]
    assert (ended["message"], ended["exitCode"], ended["pid"]) == ("process ended", "0", started["pid"])
    assert "echo in the log" in cli("sandbox", "logs", sandbox)
    cli.kill(sandbox)
    assert "sandbox ended" in logs()[-1]["message"]


def test_follow_logs_until_the_end(cli: Cli, sandbox: str) -> None:
    following = subprocess.Popen(
        [*cli.program, "sandbox", "logs", "--follow", sandbox], env=cli.environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert following.stdout is not None
        text = ""
        while "sandbox created" not in text:
            line = following.stdout.readline()
            assert line, text
            text += line
        cli("sandbox", "exec", sandbox, "echo followed live")
        while "followed live" not in text:
            line = following.stdout.readline()
            assert line, text
            text += line
        cli.kill(sandbox)
        rest = following.communicate(timeout=SECONDS)[0]
        assert "Stopped printing logs" in rest
        assert text.count("sandbox created") + rest.count("sandbox created") == 1
    finally:
        following.kill()
        following.communicate()


# exec


def test_exec(cli: Cli, sandbox: str) -> None:
    done = cli.run("sandbox", "exec", sandbox, "--", "sh", "-c", "echo out; echo 'the why' >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"out\n")
    assert done.stderr.startswith(b"the why\n")
    assert b"exit status 7" in done.stderr
    assert cli("sandbox", "exec", sandbox, "echo $HOME | tr a-z A-Z") == "/HOME/USER\n"
    assert cli("sandbox", "exec", sandbox, "printf", "%s|", "a b", "$HOME", "it's") == "a b|$HOME|it's|"
    options = ("-u", "root", "-c", "/tmp", "-e", "A=x=y", "-e", "B=two words")
    assert cli("sandbox", "exec", *options, sandbox, 'id -un; pwd; echo "$A|$B"') == "root\n/tmp\nx=y|two words\n"
    assert cli.run("sandbox", "exec", sandbox, "kill -9 $$").returncode == 255
    # Not more than a pipe holds: the client ends without waiting for its own output.
    assert cli("sandbox", "exec", sandbox, "seq 10000") == "".join(f"{n + 1}\n" for n in range(10_000))


def test_exec_in_the_background(cli: Cli, sandbox: str) -> None:
    done = cli.run("sandbox", "exec", "--background", sandbox, "sleep 2; echo done > /tmp/done; sleep 60")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (pid := re.search(rb"\d+", done.stderr)), done.stderr
    assert cli("sandbox", "exec", sandbox, f"kill -0 {pid[0].decode()} && echo runs") == "runs\n"
    until(lambda: cli.run("sandbox", "exec", sandbox, "cat", "/tmp/done").stdout == b"done\n")


_RANDOM = random.Random(7)
_INPUTS = {
    "nothing": b"",
    "one": b"x",
    "a-line": b"hello\n",
    "64KiB": _RANDOM.randbytes(1 << 16),
    "64KiB+1": _RANDOM.randbytes((1 << 16) + 1),
    "1MB": _RANDOM.randbytes(1_000_000),
    "NUL": b"a\0\0b\0",
    "0xFF": b"\xff\xfe\xff\n\xff",
}


def test_piped_input(cli: Cli, sandbox: str) -> None:
    """Compared inside: the command line itself shows output as text."""
    for name, data in _INPUTS.items():
        done = cli.run("sandbox", "exec", sandbox, "sha256sum", stdin=data)
        assert (done.returncode, done.stderr) == (0, b""), name
        assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest(), name


def test_input_that_nobody_reads(cli: Cli, sandbox: str, tmp_path: Path) -> None:
    assert cli.run("sandbox", "exec", sandbox, "head -c 3", stdin=b"abcdef").stdout == b"abc"
    assert cli.run("sandbox", "exec", sandbox, "wc -c").stdout == b"0\n"
    assert cli.run("sandbox", "exec", sandbox, "cat >/dev/null; exit 3", stdin=b"x" * 200_000).returncode == 3
    (tmp_path / "file").write_bytes(_INPUTS["64KiB+1"])
    with (tmp_path / "file").open("rb") as file:
        done = subprocess.run(
            [*cli.program, "sandbox", "exec", sandbox, "sha256sum"], env=cli.environment, stdin=file,
            capture_output=True, timeout=SECONDS, check=True,
        )  # fmt: skip
    assert done.stdout.split()[0].decode() == hashlib.sha256(_INPUTS["64KiB+1"]).hexdigest()


def test_interrupted_exec_ends_the_command(cli: Cli, sandbox: str) -> None:
    mark = secrets.token_hex(4)
    running = subprocess.Popen(
        [*cli.program, "sandbox", "exec", sandbox, f"echo {mark}; sleep 100"], env=cli.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == f"{mark}\n".encode()
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=SECONDS)
        assert running.returncode == 255
        assert cli("sandbox", "exec", sandbox, "pgrep -x sleep; true") == ""
    finally:
        running.kill()
        running.communicate()


def test_exec_keeps_the_sandbox(cli: Cli) -> None:
    """Its connect call gives more time, and never takes any."""
    short, long = cli.create(timeout=30), cli.create(timeout=3000)
    before = [cli.end(sandbox) for sandbox in (short, long)]
    for sandbox in (short, long):
        cli("sandbox", "exec", sandbox, "true")
    assert cli.end(short) > before[0]
    assert cli.end(long) == before[1]


# Terminals


def test_connect(cli: Cli, sandbox: str) -> None:
    arguments = ("sandbox", "connect", sandbox, "-c", "/tmp", "-e", "WHO=me")
    with Terminal([*cli.program, *arguments], cli.environment, columns=80, rows=24) as terminal:
        terminal.wait_for(rf"Terminal connecting to sandbox .*{sandbox}")
        terminal.type('echo "<$WHO|$PWD|$TERM|$(stty size)>"\n')
        terminal.wait_for(r"<me\|/tmp\|xterm-256color\|24 80>")
        terminal.type("echo ready; trap 'echo \"now $(stty size)\"' WINCH\n")
        terminal.wait_for(r"\rready\r+\n")
        terminal.resize(columns=132, rows=43)
        terminal.type("\n")
        terminal.wait_for(r"now 43 132")
        terminal.type("sleep 100\n")
        until(lambda: cli.run("sandbox", "exec", sandbox, "pgrep -x sleep").stdout)
        terminal.type("\x03")
        terminal.type('echo "status $?"\n')
        terminal.wait_for(r"status 130")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert cli.state(sandbox)


def test_attached_create(cli: Cli) -> None:
    with Terminal([*cli.program, "sandbox", "create", "base", "-u", "root"], cli.environment) as terminal:
        match = terminal.wait_for(r"inspect/sandbox/([a-z0-9]+)")
        sandbox = match[1]
        terminal.type("id -un; exit\n")
        terminal.wait_for(r"\rroot\r+\n")
        assert terminal.wait() == 0
    until(lambda: cli.state(sandbox) is None)  # its shell was its life


def test_terminal_of_a_killed_sandbox(cli: Cli, sandbox: str) -> None:
    with Terminal([*cli.program, "sandbox", "connect", sandbox], cli.environment) as terminal:
        terminal.type("echo $((6 * 7))up\n")
        terminal.wait_for("42up")
        cli.kill(sandbox)
        terminal.wait()
    with pytest.raises(AssertionError):
        cli("sandbox", "connect", sandbox)


# Templates


def test_templates(cli: Cli, tmp_path: Path) -> None:
    called = f"cli-{secrets.token_hex(4)}"
    (tmp_path / "e2b.Dockerfile").write_text(
        "FROM e2bdev/base\nRUN echo built > /built\nCOPY note.txt /srv/\nENV A=b\n"
    )
    (tmp_path / "note.txt").write_text("a note")
    said = cli("template", "create", called, "-p", str(tmp_path), "--cpu-count", "2", "--memory-mb", "512")
    assert called in said
    one = next(item for item in cli.json("template", "list") if called in item["aliases"])
    assert (one["cpuCount"], one["memoryMB"], one["public"], one["buildStatus"]) == (2, 512, False, "ready")
    assert re.search(rf"Private +{one['templateID']} +{called} ", cli("template", "list"))
    sandbox = cli("sandbox", "create", "--detach", called).strip()
    assert cli("sandbox", "exec", sandbox, "cat /built /srv/note.txt; echo $A; whoami") == "built\na noteb\nuser\n"
    assert "Published as" in cli("template", "publish", "-y", called)
    assert cli.json("template", "list") != []
    cli("template", "unpublish", "-y", called)
    cli("template", "delete", "-y", called)
    assert called not in cli("template", "list")
    assert cli("sandbox", "exec", sandbox, "cat /built") == "built\n", "who runs goes on"
    (tmp_path / "e2b.Dockerfile").write_text("FROM e2bdev/base\nRUN exit 4\n")
    failed = cli.run("template", "create", called, "-p", str(tmp_path))
    assert failed.returncode == 1
    assert b"exit status 4" in failed.stdout + failed.stderr
    assert cli.run("template", "delete", "-y", "nothing-of-this-name").returncode == 1
