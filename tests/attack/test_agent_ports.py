"""A hostile user of a sandbox wants the ports of its agent and of its interpreter, and with them the tokens that clients send there."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.abuse.front import FrontBox
    from tests.live import Live

    Create = Callable[..., FrontBox]

pytestmark = pytest.mark.timeout(240)

AGENT_PORTS = (49981, 49982, 49983)
INTERPRETER_PORTS = (49999, 8888)
# Each way to bind, whether it then listens or not; prints what worked. Argument: ports. A second argument: go on for so many seconds.
TAKE = r"""
import itertools, socket, sys, time
V4 = ("0.0.0.0", "169.254.0.21", "127.0.0.1", "127.0.0.2")
V6 = ("::", "::1", "::ffff:169.254.0.21", "::ffff:0.0.0.0", "::ffff:127.0.0.1")
OPTIONS = ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT))
ports = [int(port) for port in sys.argv[1].split(",")]
until = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 0)

def take(port, address, only, options):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as s:
        if ":" in address:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        for option in options:
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        try:
            s.bind((address, port))
        except OSError:
            return
        print("bound", port, address, only, options, flush=True)
        try:
            s.listen()
        except OSError:
            return
        print("listens", port, address, only, options, flush=True)

def dial(port):
    # Connections from the port, to it and to others: an outgoing socket holds its port as well.
    for target in (("127.0.0.1", port), ("169.254.0.21", 49983)):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("169.254.0.21", port))
                s.connect(target)
            except OSError:
                continue
            print("came from", port, target, flush=True)

while True:
    for port in ports:
        for address, options in itertools.product(V4 + V6, OPTIONS):
            for only in (0, 1) if ":" in address else (0,):
                take(port, address, only, options)
        dial(port)
    if time.monotonic() > until:
        break
"""
RECORD = r"""
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def put(box: FrontBox, path: str, content: str) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    with box.http() as http:
        answer = http.post("/files", params={"path": path, "username": "root"}, content=content, headers=octets)
    assert answer.status_code == 200, answer.text


def taken(box: FrontBox, ports: tuple[int, ...], user: str) -> str:
    """What an attack on these ports got."""
    return box.sh(f"python3 -I /tmp/take.py {','.join(map(str, ports))}", user)


def cell(box: FrontBox, code: str) -> str:
    with box.http(49999) as http:
        return http.post("/execute", json={"code": code}, timeout=60).text


def come_from_2024(box: FrontBox) -> None:
    """Have Jupyter's port opened, as a client of 2024 does."""
    url = box.live.edge_url.replace("http", "ws")
    with connect(f"{url}/ws", additional_headers=box.headers(49982), open_timeout=60):
        pass


def test_nobody_takes_the_ports_of_agent_and_interpreter(create: Create, runtime: str) -> None:
    box = create("code-interpreter-v1", timeout=300)
    put(box, "/tmp/take.py", TAKE)
    come_from_2024(box)
    ports = AGENT_PORTS + INTERPRETER_PORTS
    for user in ("user", "root"):
        assert taken(box, ports, user) == ""
    found: list[str] = []
    attack = f"python3 -I /tmp/take.py {','.join(map(str, INTERPRETER_PORTS))} 8"
    thief = threading.Thread(target=lambda: found.append(box.sh(attack, "user")))
    thief.start()
    time.sleep(1)
    assert box.run("pkill -9 -f 'run.py interpreter .*[j]upyter-server'")[0] == 0
    thief.join(120)
    assert found == [""]
    assert "42" in cell(box, "6 * 7")
    with box.http(8888) as http:
        assert http.get("/api").status_code == 200, "Jupyter's port is served by the next interpreter, too"
    if runtime == "gvisor":  # a restored kernel has sockets made anew
        assert box.live.api.post(f"/sandboxes/{box.id}/pause").status_code == 204
        assert box.live.api.post(f"/sandboxes/{box.id}/connect", json={"timeout": 300}).status_code == 201
        assert taken(box, ports, "user") == ""
        assert "42" in cell(box, "6 * 7")


def test_without_an_interpreter_its_ports_are_free(box: FrontBox) -> None:
    put(box, "/tmp/take.py", TAKE)
    put(box, "/tmp/record.py", RECORD)
    for user in ("user", "root"):
        assert taken(box, AGENT_PORTS, user) == ""
    seen = taken(box, INTERPRETER_PORTS, "user")
    assert "listens 49999 0.0.0.0" in seen
    assert "listens 8888 ::" in seen


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_no_users_server_receives_the_token(box: FrontBox, address: str) -> None:
    """Official clients send it to port 49999, whoever listens there; with it a user of the sandbox would be root.

    Directly, and over the agent's relay to the sandbox's loopback.
    """
    put(box, "/tmp/record.py", RECORD)
    for port in (49999, 8000):
        with box.start(f"python3 -I /tmp/record.py {address} {port}", "user") as events:
            next(events)
            with box.http(port) as http:
                answer = answered(http)
            assert box.token not in answer.text
            assert "x-access-token" not in answer.text.lower()
            with box.http(port) as http:
                own = http.get("/", headers={"X-Access-Token": "an application's own"})
            assert "an application's own" in own.text


def answered(http: httpx.Client) -> httpx.Response:
    """The first answer of a server that is starting."""
    deadline = time.monotonic() + 30
    while (answer := http.get("/")).status_code == 502:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return answer


NAMESPACES = r"""
import ctypes, json, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
got = []
for kind, family, protocol in (("raw", socket.AF_INET, 6), ("packet", socket.AF_PACKET, 0x300)):
    try:
        socket.socket(family, socket.SOCK_RAW, protocol)
        got.append(kind)
    except OSError:
        pass
NEWUSER = 0x10000000
pid = libc.syscall(56, NEWUSER | 17, 0, 0, 0, 0)
if pid == 0:
    os._exit(7)
if pid > 0:
    got.append("clone")
class Arguments(ctypes.Structure):
    _fields_ = [(str(number), ctypes.c_uint64) for number in range(8)]
arguments = Arguments()
setattr(arguments, "0", NEWUSER)
setattr(arguments, "4", 17)
pid = libc.syscall(435, ctypes.byref(arguments), ctypes.sizeof(arguments))
if pid == 0:
    os._exit(7)
if pid > 0:
    got.append("clone3")
if libc.unshare(NEWUSER) == 0:
    got.append("unshare")
if os.getuid() and subprocess.run(["ip", "addr", "add", "169.254.0.22/32", "dev", "lo"], capture_output=True).returncode == 0:
    got.append("address")
for kind, family, protocol in (("raw", socket.AF_INET, 6), ("packet", socket.AF_PACKET, 0x300)):
    try:
        socket.socket(family, socket.SOCK_RAW, protocol)
        got.append(kind + " after")
    except OSError:
        pass
print(json.dumps(got))
"""


@pytest.mark.parametrize("user", ["user", "root"])
def test_nobody_reads_the_sandboxs_traffic(box: FrontBox, user: str) -> None:
    """gVisor gives whoever makes a user namespace the rights over the sandbox's network that root has, and more."""
    put(box, "/tmp/namespaces.py", NAMESPACES)
    assert json.loads(box.sh("python3 -I /tmp/namespaces.py", user)) == []


UNIX = r"""
import glob, json, os, socket, stat
reached = []
for folder, _, names in os.walk("/run"):
    for name in names:
        path = os.path.join(folder, name)
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(path)
                    reached.append(path)
                except OSError:
                    pass
for path in ("/run/sandpit/ports/lend.sock", "/run/sandpit/interpreter/jupyter.sock", "/run/e2b-jupyter/server.sock"):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
            reached.append(path)
        except OSError:
            pass
for path in ("/run/sandpit", "/run/sandpit/ports", "/run/sandpit/interpreter", "/run/e2b-jupyter"):
    try:
        open(path + "/planted", "w")
        reached.append(path)
    except OSError:
        pass
print(json.dumps(reached))
"""


def test_unix_sockets_serve_those_they_are_for(create: Create, server: Live) -> None:
    box: Any = create("code-interpreter-v1", timeout=300)
    put(box, "/tmp/unix.py", UNIX)
    # sudo's is for everybody: it asks the kernel who calls (architecture, `sudo` in gVisor).
    assert set(json.loads(box.sh("python3 -I /tmp/unix.py", "user"))) <= {"/run/sandpit/sudo.sock"}


CONNECTIONS = r"""
import socket, sys, time
held = []
for number in range(4000):
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect(("127.0.0.1", (49983, 49982, 49981)[number % 3]))
        s.sendall(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 200 + b"x-long: " + b"x" * 60_000)
    except OSError:
        pass
    held.append(s)
print("held", flush=True)
time.sleep(100)
"""


def test_a_users_connections_do_not_fill_the_first_process(create: Create) -> None:
    """4,000 with unfinished heads of 60 KB: 240 MB, and several times as much once they are parsed."""
    box: Any = create(timeout=300)
    put(box, "/tmp/connections.py", CONNECTIONS)
    before = int(box.sh("awk '/VmRSS/ {print $2}' /proc/1/status"))
    with box.start("exec python3 -I /tmp/connections.py", "user") as events:
        assert any("stdout" in event.get("data", {}) for event in events)
        assert box.sh("echo still here") == "still here"
        assert int(box.sh("awk '/VmRSS/ {print $2}' /proc/1/status")) - before < 100_000
        assert box.sh("pkill -f '[c]onnections.py'; echo ended") == "ended"
    assert box.sh("echo still here", "user") == "still here"
