"""Root in a sandbox poses as the node and as the edge: control calls and the relay answer to a secret that is nowhere inside."""

from __future__ import annotations

import base64
import json
import stat
import time
from typing import TYPE_CHECKING

import pytest
from tests.attack.test_agent_ports import RECORD, answered, put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.abuse.front import FrontBox
    from tests.live import Live

    Create = Callable[..., FrontBox]

pytestmark = pytest.mark.timeout(180)

# From the gateway's address where root can have it, else from any other; prints what answered other than as if nothing was there.
SPOOF = r"""
import itertools, json, socket, subprocess
subprocess.run(["ip", "addr", "add", "169.254.0.22/32", "dev", "lo"], capture_output=True)
SOURCES = ("169.254.0.22", "127.0.0.1", "169.254.0.21", "")
TARGETS = ("169.254.0.21", "127.0.0.1")

def ask(source, target, port, sent):
    with socket.socket() as s:
        s.settimeout(3)
        try:
            if source:
                s.bind((source, 0))
            s.connect((target, port))
            s.sendall(sent)
            return s.recv(200)
        except OSError:
            return b""

body = json.dumps({"accessToken": None, "controlKeys": {"control": "0" * 64, "relay": "0" * 64}}).encode()
secrets = ("", "X-Sandpit-Control: \r\n", "X-Sandpit-Control: %s\r\n" % ("0" * 64))
paths = ("POST /init", "POST /freeze", "POST /unfreeze", "GET /disk", "GET /disk?stop=1", "POST /changes?settle=1", "POST /changes",
         "GET /changes", "GET /journal?after=0&wait=0", "POST //init", "POST /%69nit")
answered = []
for source, target in itertools.product(SOURCES, TARGETS):
    for secret, path in itertools.product(secrets, paths):
        head = f"{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{secret}\r\n"
        answer = ask(source, target, 49983, head.encode() + body).split(b"\r\n")[0]
        if answer and not answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 401")):
            answered.append((source, target, path, answer.decode()))
    for line in (b"49983\n", b"49983 %s\n" % (b"0" * 64), b"22 \n"):
        answer = ask(source, target, 49981, line)
        if answer:
            answered.append((source, target, "relay", answer.decode()))
subprocess.run(["ip", "addr", "del", "169.254.0.22/32", "dev", "lo"], capture_output=True)
print(json.dumps(answered))
"""


def test_the_gateways_address_opens_nothing(box: FrontBox) -> None:
    put(box, "/tmp/spoof.py", SPOOF)
    # In the background: while root has the gateway's address, no answer of the agent reaches the real one.
    box.sh("(setsid python3 -I /tmp/spoof.py > /tmp/new 2>&1; mv /tmp/new /tmp/spoofed) > /dev/null 2>&1 &")
    deadline = time.monotonic() + 90
    while box.run("test -e /tmp/spoofed")[0] != 0:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert json.loads(box.sh("cat /tmp/spoofed")) == []
    with box.http() as http:
        assert http.get("/envs", headers={"X-Access-Token": ""}).status_code == 401
        assert http.get("/envs").json()["E2B_SANDBOX_ID"] == box.id


def record_of(server: Live, box: FrontBox) -> Path:
    for path in (server.data_dir / "sandboxes").glob("*/record.json"):
        if json.loads(path.read_text())["sandbox_id"] == box.id:
            return path
    raise AssertionError("no record")


LOOK = """
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
find /run /tmp /etc /root /var /.sandpit/run.py -type f -size -4096k -exec cat {} + 2>/dev/null
env; dmesg 2>/dev/null
"""


def test_the_secret_is_on_the_host_alone(server: Live, box: FrontBox) -> None:
    path = record_of(server, box)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = [secret.encode() for secret in json.loads(path.read_text())["secrets"]]
    assert secrets
    inside = base64.b64decode(box.sh(f"({LOOK}) | base64 -w0"))
    assert len(inside) > 1000
    shown = [
        server.api.get(f"/sandboxes/{box.id}").content,
        server.api.get("/v2/sandboxes").content,
        server.log.read_bytes(),
    ]
    for secret in secrets:
        assert len(secret) == 64
        for text in (inside, *shown):
            assert secret not in text


def test_each_life_has_a_secret_of_its_own(server: Live, create: Create, runtime: str) -> None:
    """And with it the edge reaches what listens on the loopback alone: after a create, a resume, and the death of the server."""
    box, other = create(), create()
    put(box, "/tmp/record.py", RECORD)
    seen = [secrets_of(server, other)]

    def check() -> None:
        seen.append(secrets_of(server, box))
        with box.start("exec python3 -I /tmp/record.py 127.0.0.1 8000", "user") as events, box.http(8000) as http:
            next(events)
            assert answered(http).status_code == 200
        box.run("pkill -9 -f record.py")

    check()
    assert server.api.post(f"/sandboxes/{box.id}/pause").status_code == 204
    assert server.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 300}).status_code == 201
    check()
    server.kill()
    server.start()
    check()
    first, before, after, restarted = seen
    assert len({first[0], before[0], after[0]}) == 3
    assert restarted[0] == after[0]


def secrets_of(server: Live, box: FrontBox) -> list[str]:
    secrets: list[str] = json.loads(record_of(server, box).read_text())["secrets"]
    return secrets
