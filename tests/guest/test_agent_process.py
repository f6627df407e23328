"""The process service on the wire (current-protocol 4 and 5)."""

from __future__ import annotations

import base64
import json
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "Basic " + base64.b64encode(b"nobody:").decode()


def test_output_and_exit_code(agent: Any) -> None:
    result = agent.run("echo out; echo err >&2; exit 3")
    assert result.output() == b"out\n"
    assert result.output("stderr") == b"err\n"
    assert result.end == {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}
    assert result.trailer == {}


def test_success_has_no_error(agent: Any) -> None:
    assert agent.run("true").end == {"exitCode": 0, "exited": True, "status": "exit status 0"}


def test_signal_end(agent: Any) -> None:
    end = {"exitCode": -1, "exited": False, "status": "signal: killed", "error": "signal: killed"}
    assert agent.run("kill -9 $$").end == end
    assert agent.run("kill $$").end["status"] == "signal: terminated"


def test_large_output_arrives_whole(agent: Any) -> None:
    assert agent.run("head -c 3000001 /dev/zero | tr '\\0' x").output() == b"x" * 3000001


@pytest.mark.parametrize(
    ("process", "text"),
    [
        (
            {"args": ["-c", "echo " + "x" * 131_067]},
            "argument 2 is too long: 131072 bytes, and the kernel takes 131071",
        ),
        ({"envs": {"LONG": "x" * 131_067}}, "the environment variable LONG is too long"),
        ({"args": ["-c", "true", *["x" * 100_000] * 21]}, "arguments and environment are too long"),
    ],
)
def test_a_command_that_is_too_long_is_refused_with_the_limit(agent: Any, process: dict[str, Any], text: str) -> None:
    code, message = agent.run("true", process=process).error
    assert code == "invalid_argument"
    assert text in message


def test_the_longest_command_runs(agent: Any) -> None:
    assert agent.run("echo " + "x" * 131_066).output() == b"x" * 131_066 + b"\n"


def test_user_owns_the_process_wholly(agent: Any) -> None:
    result = agent.run("grep -E '^(Uid|Gid|CapEff)' /proc/self/status; head -c1 /etc/shadow", authorization=NOBODY)
    words = result.output().decode().split()
    assert words[1:5] == ["65534"] * 4
    assert words[6:10] == ["65534"] * 4
    assert int(words[11], 16) == 0
    assert b"denied" in result.output("stderr")
    assert agent.run("id -u").output() == b"0\n"


def test_environment(agent: Any) -> None:
    agent.http.post("/init", json={"sandboxID": "", "templateID": "t1", "envVars": {"A": "1", "B": "1"}})
    result = agent.run("echo $HOME $USER $LOGNAME $E2B_SANDBOX $E2B_TEMPLATE_ID $A $B", process={"envs": {"B": "2"}})
    assert result.output() == b"/root root root true t1 1 2\n"


@pytest.mark.parametrize(
    ("process", "code", "text"),
    [
        ({"cwd": "/no/where"}, "invalid_argument", "cwd '/no/where' does not exist"),
        ({"cwd": "/etc/passwd"}, "invalid_argument", "Not a directory"),
        ({"cmd": "/no/command"}, "invalid_argument", "No such file"),
        ({"cmd": "nocommand"}, "invalid_argument", "not found in $PATH"),
        ({"cmd": ""}, "invalid_argument", "empty"),
        ({"args": ["a\0b"]}, "invalid_argument", "null"),
        ({"args": [1]}, "invalid_argument", "strings"),
        ({"envs": {"A=B": "c"}}, "invalid_argument", "A=B"),
    ],
)
def test_start_refusals(agent: Any, process: dict[str, Any], code: str, text: str) -> None:
    result = agent.run("true", process=process)
    assert result.events == []
    assert result.error[0] == code
    assert text in result.error[1]


def test_unknown_user_and_forbidden_directory(agent: Any) -> None:
    nosuch = "Basic " + base64.b64encode(b"nosuch:").decode()
    assert agent.run("true", authorization=nosuch).error == ("unauthenticated", "invalid username: 'nosuch'")
    assert agent.run("true", process={"cwd": "/root"}, authorization=NOBODY).error[0] == "permission_denied"


def test_deadline_kills_the_group(agent: Any, tmp_path: Path) -> None:
    result = agent.run(f"sleep 60 & echo $! > {tmp_path}/pid; wait", connect_timeout_ms="500")
    assert result.error[0] == "deadline_exceeded"
    _wait_until(lambda: not _alive(int((tmp_path / "pid").read_text())))
    assert agent.unary("List", {}).json() == {"processes": []}


def test_kill_empties_the_list_at_once(agent: Any) -> None:
    pid, events = agent.start("sleep 60 && echo done", tag="t")
    listed = agent.unary("List", {}).json()["processes"]
    assert listed[0]["pid"] == pid
    assert listed[0]["tag"] == "t"
    assert listed[0]["config"]["args"] == ["-c", "sleep 60 && echo done"]
    assert agent.unary("SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}).json() == {}
    assert not Path(f"/proc/{pid}").exists()
    assert agent.unary("List", {}).json() == {"processes": []}
    assert [message for flags, message in events if flags == 2] == [{}]
    assert agent.unary("SendSignal", {"process": {"pid": pid}, "signal": 9}).status_code == 404


def test_end_comes_though_a_background_child_holds_the_pipe(agent: Any, tmp_path: Path) -> None:
    result = agent.run(f"(sleep 1; echo late; touch {tmp_path}/alive) & echo now")
    assert result.output() == b"now\n"
    assert result.end["exitCode"] == 0
    assert not (tmp_path / "alive").exists()
    _wait_until((tmp_path / "alive").exists)  # its later output met no closed pipe


def test_disconnect_leaves_it_running_and_connect_finds_it(agent: Any, tmp_path: Path) -> None:
    pid, events = agent.start(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo late")
    events.close()
    again = agent.stream("Connect", {"process": {"pid": pid}})
    assert next(again)[1] == {"event": {"start": {"pid": pid}}}
    (tmp_path / "go").touch()
    rest = [message for _, message in again]
    assert rest[0] == {"event": {"data": {"stdout": base64.b64encode(b"late\n").decode()}}}
    after = [message for _, message in agent.stream("Connect", {"process": {"pid": pid}})]
    assert after == [{"event": {"start": {"pid": pid}}}, rest[1], {}]


def test_connect_to_nothing(agent: Any) -> None:
    (flags, end), *rest = agent.stream("Connect", {"process": {"pid": 999999}})
    assert (flags, rest) == (2, [])
    assert end["error"] == {"code": "not_found", "message": "process with pid 999999 not found"}


def test_stdin(agent: Any) -> None:
    pid, events = agent.start("cat", stdin=True)
    text = "a\nß$'\"".encode()
    given = {"process": {"pid": pid}, "input": {"stdin": base64.b64encode(text).decode()}}
    assert agent.unary("SendInput", given).json() == {}
    assert agent.unary("SendInput", {"process": {"pid": pid}, "input": {"stdin": ""}}).json() == {}
    wrong = agent.unary("SendInput", {"process": {"pid": pid}, "input": {"pty": "YQ=="}})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "failed_precondition")
    assert agent.unary("CloseStdin", {"process": {"pid": pid}}).json() == {}
    messages = [message for _, message in events]
    assert base64.b64decode(messages[0]["event"]["data"]["stdout"]) == text
    assert messages[1]["event"]["end"]["exitCode"] == 0


def test_stream_input(agent: Any) -> None:
    pid, events = agent.start("head -n 2", stdin=True)

    def body() -> Iterator[bytes]:
        messages: list[dict[str, Any]] = [
            {"start": {"process": {"pid": pid}}},
            {"data": {"input": {"stdin": base64.b64encode(b"one\n").decode()}}},
            {"keepalive": {}},
            {"data": {"input": {"stdin": base64.b64encode(b"two\n").decode()}}},
        ]
        for message in messages:
            payload = json.dumps(message).encode()
            yield struct.pack(">BI", 0, len(payload)) + payload

    sent = {"content-type": "application/connect+json"}
    answer = agent.http.post("/process.Process/StreamInput", content=body(), headers=sent)
    assert answer.content == b"\x00\x00\x00\x00\x02{}\x02\x00\x00\x00\x02{}"
    data = [message["event"]["data"]["stdout"] for _, message in events if "data" in message.get("event", {})]
    assert b"".join(map(base64.b64decode, data)) == b"one\ntwo\n"


def test_terminal(agent: Any) -> None:
    request = {"pty": {"size": {"cols": 80, "rows": 24}}}
    result = agent.run("tty; stty size; echo err >&2; echo x > /dev/tty; exit 4", request=request)
    lines = result.output("pty").split(b"\r\n")
    assert lines[0].startswith(b"/dev/pts/")
    assert lines[1:] == [b"24 80", b"err", b"x", b""]
    assert result.end["exitCode"] == 4


def test_terminal_resize_and_input(agent: Any) -> None:
    pid, events = agent.start("read x; stty size; echo got $x", pty={"size": {"cols": 80, "rows": 24}})
    selector = {"process": {"pid": pid}}
    assert agent.unary("Update", {**selector, "pty": {"size": {"cols": 100, "rows": 30}}}).json() == {}
    assert agent.unary("CloseStdin", selector).status_code == 400
    given = {"input": {"pty": base64.b64encode(b"hi\n").decode()}}
    assert agent.unary("SendInput", {**selector, **given}).json() == {}
    output = b"".join(
        base64.b64decode(message["event"]["data"]["pty"]) for _, message in events if "data" in message.get("event", {})
    )
    assert b"30 100" in output
    assert b"got hi" in output


def test_keepalive_fills_silence(agent: Any) -> None:
    result = agent.run("sleep 1.5", keepalive_ping_interval="1")
    assert {"keepalive": {}} in result.events


def test_slow_reader_holds_the_process_back(agent: Any) -> None:
    before = _resident(agent.pid)
    pid, events = agent.start("head -c 300000000 /dev/zero; echo >&2 end")
    next(events)
    time.sleep(1.5)
    assert _resident(agent.pid) - before < 20_000_000
    assert agent.unary("List", {}).json()["processes"][0]["pid"] == pid  # still blocked on its pipe
    events.close()
    _wait_until(lambda: agent.unary("List", {}).json() == {"processes": []})  # unread, it is drained and dropped


@pytest.mark.parametrize("message", [{}, {"process": {}}, {"process": {"pid": 1}, "signal": "SIGNAL_SIGHUP"}])
def test_bad_signals(agent: Any, message: dict[str, Any]) -> None:
    assert agent.unary("SendSignal", message).status_code in (404, 501)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"process": 3}', b'{"process": {"pid": -1}}'])
def test_bad_unary_bodies(agent: Any, body: bytes) -> None:
    sent = {"content-type": "application/json"}
    answer = agent.http.post("/process.Process/SendInput", content=body, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


def test_foreign_content_type(agent: Any) -> None:
    sent = {"content-type": "application/json"}
    assert agent.http.post("/process.Process/Start", content=b"{}", headers=sent).status_code == 415


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _wait_until(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)
