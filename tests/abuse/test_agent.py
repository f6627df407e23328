"""Bad input for what runs inside a sandbox, through the gateway."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import httpx
import pytest
from e2b.sandbox.signature import get_signature
from tests.abuse.front import RELAY, FrontBox, head, raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live import Live

    Create = Callable[..., FrontBox]


def test_commands_that_cannot_start(box: FrontBox) -> None:
    box.sh("mkdir -m 700 /closed && touch /plain")
    for process, user, code, text in (
        ({"command": "no-such-command"}, "root", "invalid_argument", "not found in $PATH"),
        ({"command": "/no/such/command"}, "root", "invalid_argument", "No such file"),
        ({"command": "/etc"}, "root", "invalid_argument", "/etc"),
        ({"command": "/etc/passwd"}, "root", "invalid_argument", "Permission denied"),
        ({"command": "x" * 100_000}, "root", "invalid_argument", "cannot start"),
        ({"args": ["x" * 3_000_000]}, "root", "invalid_argument", "too long"),
        ({"cwd": "/nowhere"}, "root", "invalid_argument", "cwd '/nowhere' does not exist"),
        ({"cwd": "/plain"}, "root", "invalid_argument", "Not a directory"),
        ({"cwd": "/closed"}, "user", "permission_denied", "cannot be entered"),
        ({}, "nobody-knows-me", "unauthenticated", "invalid username: 'nobody-knows-me'"),
        ({}, "../root", "unauthenticated", "invalid username"),
    ):
        got = box.refusal(user=user, **process)
        assert got[0] == code, got
        assert text in got[1], got
    assert box.alive()


def test_a_working_directory_that_was_removed(box: FrontBox) -> None:
    """A process keeps a removed directory; nobody can begin there."""
    box.sh("mkdir /gone")
    with box.start("rmdir /gone; sleep 0.1; pwd; ls", cwd="/gone") as events:
        assert next(event["end"] for event in events if "end" in event).get("exitCode", 0) == 0
    assert box.refusal(cwd="/gone") == ("invalid_argument", "cwd '/gone' does not exist")


def test_a_process_that_ignores_sigterm(box: FrontBox) -> None:
    with box.start("trap '' TERM; echo ready; while :; do sleep 1; done") as events:
        pid = next(event["start"]["pid"] for event in events if "start" in event)
        assert "data" in next(events)
        terminate, kill = ({"process": {"pid": pid}, "signal": name} for name in ("SIGNAL_SIGTERM", "SIGNAL_SIGKILL"))
        assert box.call("process.Process/SendSignal", terminate).status_code == 200
        assert [one["pid"] for one in box.call("process.Process/List", {}).json()["processes"]] == [pid]
        assert box.call("process.Process/SendSignal", kill).status_code == 200
        assert next(event["end"] for event in events if "end" in event)["status"] == "signal: killed"
    assert box.call("process.Process/List", {}).json()["processes"] == []
    assert box.call("process.Process/SendSignal", kill).status_code == 404


def test_where_no_file_is(box: FrontBox) -> None:
    box.sh("mkfifo /pipe; ln -s /loop /loop; ln -s / /root-link")
    octets = {"Content-Type": "application/octet-stream"}
    with box.http() as http:
        for path, read, written in (
            ("/etc", 400, 400), ("/", 400, 400), ("/pipe", 400, 400), ("/dev/zero", 400, 400), ("/loop", 400, 400),
            ("/etc/passwd/x", (400, 404), 400), ("x" * 300, 400, 400), ("/" + "y/" * 3000, 400, 400), ("/a\0b", 400, 400),
            ("/proc/self/mem", (400, 403, 404), (400, 403)), ("/proc/1/environ", (200, 400), (400, 403)),
            ("/.sandpit/run.py", 200, 403),
        ):  # fmt: skip
            params = {"path": path, "username": "root"}
            got = http.get("/files", params=params, timeout=10).status_code
            assert got in (read if isinstance(read, tuple) else (read,)), (path, got)
            got = http.post("/files", params=params, content=b"x", headers=octets, timeout=10).status_code
            assert got in (written if isinstance(written, tuple) else (written,)), (path, got)
        assert http.get("/files", params={"path": "/x", "username": "nobody-knows-me"}).status_code == 401
    for method, message in (
        ("ListDir", {"path": "/etc/passwd"}), ("MakeDir", {"path": "/etc/passwd/x"}), ("Move", {"source": "/etc", "destination": "/etc/x"}),
        ("ListDir", {"path": "/", "depth": -1}), ("ListDir", {"path": "/", "depth": 1 << 40}), ("Stat", {"path": "/a\0b"}),
        ("Stat", {"path": ["/"]}), ("CreateWatcher", {"path": "/etc/passwd"}), ("Remove", {"path": "/proc/1"}),
    ):  # fmt: skip
        answer = box.call(f"filesystem.Filesystem/{method}", message)
        assert 400 <= answer.status_code < 500, (method, message, answer.text)
        assert answer.json()["message"]
    assert box.alive()


RESERVED = [
    "/init", "//init", "/%69nit", "/./init", "/x/../init", "/init/", "/INIT", "/%2e/init", "/%2finit", "/..//init",
    "/%2569nit", "/init;a=b", "/init?x", "/init%20", "/health/../init", "/files/%2e%2e/init", "/freeze", "/upgrade",
]  # fmt: skip


def test_nobody_outside_reaches_the_control_calls(live: Live, box: FrontBox) -> None:
    body = b'{"sandboxID": "stolen", "accessToken": null}'
    for path in RESERVED:
        for host in ("localhost", f"49983-{box.id}.sandbox.example"):
            headers = [("X-Access-Token", box.token), ("Content-Length", str(len(body)))]
            if host == "localhost":
                headers += [("E2b-Sandbox-Id", box.id), ("E2b-Sandbox-Port", "49983")]
            request = head("POST", path, *headers).replace(b"Host: localhost", f"Host: {host}".encode())
            status, answer = raw(live.edge_url, request + body)
            assert status == 404, (path, answer)
            assert b"reserved for the control plane" in answer
    with box.http() as http:
        assert http.get("/envs").json()["E2B_SANDBOX_ID"] == box.id
        assert http.get("/envs", headers={"X-Access-Token": ""}).status_code == 401


def test_nobody_outside_or_inside_reaches_the_relay(live: Live, box: FrontBox) -> None:
    with box.http(RELAY) as http:
        assert http.get("/").status_code == 404
    request = head("GET", "/").replace(b"Host: localhost", f"Host: {RELAY}-{box.id}.sandbox.example".encode())
    assert raw(live.edge_url, request)[0] == 404
    answered = box.run(f"exec 3<>/dev/tcp/169.254.0.21/{RELAY} && echo 49983 >&3 && head -c 1 <&3")[1]
    assert "+" not in answered
    control = "curl -s -o /dev/null -w '%{http_code}' -d '{}' http://"
    assert [box.run(f"{control}{host}:49983/init")[1] for host in ("127.0.0.1", "169.254.0.21")] == ["404", "404"]


def test_messages_that_are_none(box: FrontBox) -> None:
    deep = b'{"path":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with box.http() as http:
        unary = {"Content-Type": "application/json"}
        for content in (deep, b"[" * 100_000, b"{", b"\xff", b"[]", b"null", b'{"path": 1}'):
            answer = http.post("/filesystem.Filesystem/Stat", content=content, headers=unary)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), answer.text
        stream = {"Content-Type": "application/connect+json"}
        for content in (deep, b"{", b"[]"):
            envelope = struct.pack(">BI", 0, len(content)) + content
            answer = http.post("/process.Process/Start", content=envelope, headers=stream)
            assert answer.status_code == 200
            assert b'"invalid_argument"' in answer.content
        for content in (b"", b"\0\0", struct.pack(">BI", 0, 1 << 31), struct.pack(">BI", 255, 2) + b"{}"):
            answer = http.post("/process.Process/Start", content=content, headers=stream)
            assert b'"error"' in answer.content
    assert box.alive()


def test_cells_that_are_none(create: Create) -> None:
    box = create("code-interpreter-v1")
    deep = b'{"code":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with box.http(49999) as http:
        for content in (deep, b"[" * 100_000, b"{", b"\xff", b"[]", b"null", b'{"code": 1}', b""):
            answer = http.post("/execute", content=content, headers={"Content-Type": "application/json"})
            assert 400 <= answer.status_code < 500, (content[:20], answer.text)
        for context in ("../default", "x" * 5000, "nothing"):
            assert http.post("/execute", json={"code": "1", "context_id": context}).status_code == 404
            assert http.delete(f"/contexts/{httpx.URL(path=context).raw_path.decode()}").status_code == 404
        assert '"text": "2"' in http.post("/execute", json={"code": "1 + 1"}).text.replace('":"', '": "')


@pytest.mark.parametrize(
    "port", ["080", "+80", "65536", "-1", "0", "80 ", "0x50", "8_0", "\u0668\u0660", "80.0", "65616"]
)
def test_ports_that_are_none(live: Live, box: FrontBox, port: str) -> None:
    """A server on port 80 must not be found under another spelling: rules are kept for the canonical one."""
    box.sh("cd /tmp && echo found > index.html && (python3 -m http.server 80 >/dev/null 2>&1 &)")
    with box.http(80) as http:
        for _ in range(50):
            if (answer := http.get("/")).status_code == 200:
                break
    assert answer.text == "found\n"
    spelled = port.encode().decode("latin-1")
    named = head("GET", "/", ("E2b-Sandbox-Id", box.id), ("E2b-Sandbox-Port", spelled))
    if port.strip() == port:  # blanks around a value are not part of it
        status, answer_bytes = raw(live.edge_url, named)
        assert (status, b"found\n" in answer_bytes) == (400, False)
    label = head("GET", "/").replace(b"Host: localhost", f"Host: {spelled}-{box.id}.sandbox.example".encode("latin-1"))
    status, answer_bytes = raw(live.edge_url, label)
    assert 400 <= status < 500
    assert b"found\n" not in answer_bytes


def test_signed_links(live: Live, box: FrontBox, create: Create) -> None:
    other = create()
    box.sh("echo mine > /home/user/f; echo secret > /home/user/g")

    def ask(
        token: str = box.token, method: str = "GET", lifetime: int | None = None, **changes: str
    ) -> tuple[int, str]:
        made = get_signature("f", "read" if method == "GET" else "write", "user", token, lifetime)
        query = {"path": "f", "username": "user", "signature": made["signature"]}
        if made["expiration"] is not None:
            query["signature_expiration"] = str(made["expiration"])
        query |= changes
        form = {"file": ("f", b"written\n")} if method == "POST" else None
        answer = httpx.request(
            method, f"{live.edge_url}/files", params=query, files=form, headers=named, trust_env=False
        )
        return answer.status_code, answer.text

    by_header = {"E2b-Sandbox-Id": box.id, "E2b-Sandbox-Port": "49983"}
    for headers in ({}, by_header):
        named = headers
        assert ask() == ask(lifetime=60) == (200, "mine\n")
        assert ask(lifetime=-1)[0] == 401
        assert "expired" in ask(lifetime=-1)[1]
        valid = get_signature("f", "read", "user", box.token)["signature"]
        for changes in (
            {"path": "g"}, {"path": "./f"}, {"path": "/home/user/f"}, {"username": "root"}, {"username": ""}, {"signature": valid[:-1]},
            {"signature": valid.swapcase()}, {"signature": ""}, {"signature_expiration": "99999999999"}, {"signature_expiration": "0"},
        ):  # fmt: skip
            assert ask(lifetime=None, **changes)[0] == 401, changes
        assert ask(lifetime=60, signature_expiration="99999999999")[0] == 401
        assert ask(lifetime=60, signature_expiration="")[0] == 401
        made = get_signature("f", "read", "user", box.token)["signature"]
        assert ask(method="POST", signature=made)[0] == 401
    named = by_header
    assert ask(other.token)[0] == 401
    named = {}
    assert ask(other.token)[0] == 404  # its own sandbox has no such file
    assert ask(method="POST")[0] == 200
    assert ask() == (200, "written\n")
    box.kill()
    assert ask()[0] == 401
