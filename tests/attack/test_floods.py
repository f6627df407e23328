"""Hostile guests and hostile clients that open, hold and flood: they fill what is theirs."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from tests.abuse.front import head, raw
from tests.abuse.test_connections import connect, resident
from tests.machines import wait_for
from tests.node.outside import PORT, PUBLIC

from sandpit.api.http import connections
from sandpit.edge import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.abuse.front import FrontBox
    from tests.live import Live
    from tests.node.outside import Outside

FLOOD = f"""
import socket
for port in range(3000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try: s.sendto(b"x", ("{PUBLIC}", 10000 + port))
    except OSError: pass
    s.close()
held = []
for number in range(400):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("{PUBLIC}", {PORT})); held.append(s)
"""
POUR = """
import socketserver
class Pour(socketserver.BaseRequestHandler):
    def handle(self):
        request = self.request.recv(65536)
        if b"odd" in request: self.request.sendall(b"HTTP/1.1 099 Odd\\r\\nContent-Length: 2\\r\\n\\r\\nok"); return
        self.request.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        while True: self.request.sendall(bytes(65536))
class Server(socketserver.ThreadingTCPServer): request_queue_size = 64
Server(("0.0.0.0", 8055), Pour).serve_forever()
"""


def flows(live: Live) -> int:
    """Tracked connections of a server's sandboxes to the machine elsewhere."""
    listed = subprocess.run(["conntrack", "-L", "-d", PUBLIC], capture_output=True, text=True, check=True)
    sources = [line.partition(" src=")[2].split()[0] for line in listed.stdout.splitlines()]
    return sum(IPv4Address(source) in live._network for source in sources)


def test_a_guest_does_not_fill_the_hosts_table(named: Live, two: tuple[FrontBox, FrontBox], outside: Outside) -> None:
    greedy, other = two
    greedy.sh(f"python3 - <<'E'\n{FLOOD}\nE")
    assert 0 < flows(named) <= 220
    assert other.run(f"curl -s -m 5 --noproxy '*' http://{PUBLIC}:{PORT}/") == (0, "outside")


def pouring(box: FrontBox) -> None:
    """A server in a sandbox whose answers have no end."""
    box.sh(f"cat > /tmp/pour.py <<'E'\n{POUR}\nE\n(setsid python3 /tmp/pour.py >/dev/null 2>&1 &)")
    with box.http(8055) as http:
        wait_for(lambda: http.get("/odd").text != "" and "not open" not in http.get("/odd").text)


def test_clients_that_do_not_read_hold_little(server: Live, create: Callable[..., FrontBox]) -> None:
    box = create()
    pouring(box)
    with box.http(8055) as http:  # and an impossible status line is nothing that a client gets to see
        assert http.get("/odd").status_code == 502
    before = resident(server.process.pid)
    ask = head("GET", "/", ("E2b-Sandbox-Id", box.id), ("E2b-Sandbox-Port", "8055"))
    with ExitStack() as held:
        for _ in range(40):
            client = held.enter_context(connect(server.edge_url))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            client.sendall(ask)
        for _ in range(10):
            assert box.alive()
        assert server.api.get("/health").status_code == 200
        assert resident(server.process.pid) < before + (24 << 20)


def test_one_address_does_not_take_the_ports(server: Live, create: Callable[..., FrontBox]) -> None:
    box = create()
    for url, most in ((server.api_url, connections.CLIENT_CONNECTIONS), (server.edge_url, Limits().client_connections)):
        with ExitStack() as held:
            for _ in range(most):
                held.enter_context(connect(url, "127.0.5.1"))
            with connect(url, "127.0.5.1") as refused:
                assert refused.recv(4096).startswith(b"HTTP/1.1 503 ")
            assert box.alive()
            assert server.api.get("/health").status_code == 200
    assert raw(server.api_url, head("GET", "/health"))[0] == 200
