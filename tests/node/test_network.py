"""What a sandbox reaches: the world, if it may; never its host, its neighbours or private networks."""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from tests.machines import wait_for
from tests.node.outside import CLOSED, NAMES, OTHER_PUBLIC, PORT, PUBLIC, Outside

from sandpit.contract.node import NetworkPolicy
from sandpit.node.network import dns, resolver
from sandpit.provision.debian import machine_archives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.machines import Box

    Create = Callable[..., Box]

EVERYTHING = "0.0.0.0/0"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """A machine elsewhere, which also is the host's name server."""
    with Outside() as outside:
        monkeypatch.setattr(resolver, "resolvers", lambda: [PUBLIC])
        yield outside


def reaches(box: Box, host: str, port: int = PORT) -> bool:
    return box.run(f"curl -s -m 3 --noproxy '*' http://{host}:{port}/")[0] == 0


@contextmanager
def host_listener() -> Iterator[tuple[int, list[str]]]:
    """A server on all addresses of the host: its port, and who came."""
    server = socket.create_server(("0.0.0.0", 0))
    came: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, peer = server.accept()
            except OSError:
                return
            came.append(peer[0])
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhost")
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1], came
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def host_addresses() -> set[str]:
    output = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return {line.split()[3].partition("/")[0] for line in output.splitlines()}


def test_no_service_of_the_host_is_reachable(box: Box) -> None:
    with host_listener() as (port, came):
        addresses = sorted(host_addresses() | {"169.254.0.22", "127.0.0.1", "127.0.1.1", "0.0.0.0"})
        assert len(addresses) >= 4
        for address in addresses:
            assert not reaches(box, address, port), address
        assert came == []
        with socket.create_connection(("127.0.0.1", port)) as check:
            assert check.recv(4) == b"HTTP"


def test_the_world_is_reachable_private_ranges_are_not(box: Box, outside: Outside) -> None:
    assert reaches(box, PUBLIC)
    assert outside.peers() == set()  # it came under the host's address
    for address in CLOSED:
        assert httpx.get(f"http://{address}:{PORT}/", timeout=5).text == "outside"
        assert not reaches(box, address), address


def test_udp_and_ping_to_private_ranges(box: Box, outside: Outside) -> None:
    output = box.python(
        "import socket\n"
        "def ask(host):\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        "        s.settimeout(1)\n"
        "        s.connect((host, 53))\n"
        "        try:\n"
        "            s.send(bytes.fromhex('000101000001000000000000036f6e65076578616d706c650000010001')); return len(s.recv(512)) > 0\n"
        "        except OSError: return False\n"
        f"print(ask('{PUBLIC}'), ask('{CLOSED[0]}'), ask('169.254.169.254'))"
    )
    assert output == "True False False"
    for user in ("user", "root"):
        box.sh(f"ping -c1 -W5 {PUBLIC}", user)
        assert box.run(f"ping -c1 -W1 {CLOSED[0]}", user)[0] != 0


def test_sandboxes_do_not_reach_each_other(create: Create) -> None:
    server, client = create(), create()
    server.sh("cd /tmp && (python3 -m http.server 8000 --bind 0.0.0.0 >/dev/null 2>&1 &) && sleep 1")
    url = f"http://{server.info.address}:8000/"
    assert httpx.get(url, timeout=5).status_code == 200
    assert not reaches(client, server.info.address, 8000)
    assert not reaches(client, server.info.address, 49983)
    assert not reaches(client, "169.254.0.21", 8000)
    assert not reaches(server, client.info.address, 49983)


def test_forged_source_addresses_are_dropped(box: Box, outside: Outside, runtime: str) -> None:
    raw = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)"
    assert box.run(f"python3 -c '{raw}'")[0] != 0
    if runtime == "gvisor":
        return  # and its own network stack holds the interface
    # Should a sandbox ever get there: as the host's root in its network namespace.
    with subprocess.Popen(
        ["ip", "netns", "exec", outside.name, "timeout", "5", "python3", "-c", _WATCH, PUBLIC],
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "ready\n"
        namespace = box.machine.node._sandboxes[box.id].slot.namespace
        subprocess.run(["ip", "netns", "exec", namespace, "python3", "-c", _FORGE, PUBLIC], check=True, timeout=10)
        assert watch.stdout.read() == "169.\n"


_FORGE = """
import socket, struct, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
for source in ("10.1.2.3", "169.254.0.21"):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(sys.argv[1]))
    raw.sendto(head + struct.pack(">HHHH", 9, 9999, 12, 0) + source[:4].encode(), (sys.argv[1], 0))
"""

_WATCH = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 9999)); s.settimeout(3)
print("ready", flush=True)
try:
    while True: print(s.recv(64).decode(), flush=True)
except TimeoutError: pass
"""


def test_names(box: Box, outside: Outside) -> None:
    for name, address in NAMES.items():
        assert box.sh(f"getent ahostsv4 {name} | head -1").split()[0] == address
    assert reaches(box, "one.example")
    assert box.run("getent hosts nothing.example")[0] != 0


def test_deny_some(create: Create, outside: Outside) -> None:
    box = create(NetworkPolicy(deny_out=("198.51.100.0/24",)))
    assert reaches(box, PUBLIC)
    assert not reaches(box, OTHER_PUBLIC)


def test_allow_wins_over_deny(create: Create, outside: Outside) -> None:
    box = create(NetworkPolicy(allow_out=("203.0.113.0/25",), deny_out=(EVERYTHING,)))
    assert reaches(box, PUBLIC)
    assert not reaches(box, OTHER_PUBLIC)


def test_private_ranges_cannot_be_allowed(create: Create, outside: Outside) -> None:
    box = create(NetworkPolicy(allow_out=(EVERYTHING, "10.0.0.0/8", "169.254.169.254")))
    assert reaches(box, PUBLIC)
    assert not reaches(box, CLOSED[0])
    assert not reaches(box, "169.254.169.254")


def test_allowed_names_are_pinned(create: Create, outside: Outside) -> None:
    box = create(NetworkPolicy(allow_out=("one.example",), deny_out=(EVERYTHING,)))
    assert not reaches(box, PUBLIC)  # nobody has asked for its name yet
    assert reaches(box, "one.example")
    assert not reaches(box, "two.example")
    assert not reaches(box, OTHER_PUBLIC)
    assert box.run("getent hosts two.example")[0] != 0


def test_wildcards_do_not_match_the_domain_itself(create: Create, outside: Outside) -> None:
    box = create(NetworkPolicy(allow_out=("*.wild.example",), deny_out=(EVERYTHING,)))
    assert reaches(box, "www.wild.example")
    assert box.run("getent hosts wild.example")[0] != 0
    assert not reaches(box, OTHER_PUBLIC)


def test_names_cannot_leak_past_the_rules(create: Create, outside: Outside) -> None:
    """With only listed destinations allowed, other name servers are out of reach."""
    box = create(NetworkPolicy(allow_out=("one.example",), deny_out=(EVERYTHING,)))
    assert reaches(box, "one.example")
    assert box.run("getent hosts secret-data.two.example")[0] != 0
    deaf = create(NetworkPolicy(deny_out=(EVERYTHING,)))
    assert not reaches(deaf, PUBLIC)
    assert deaf.run("getent hosts one.example")[0] != 0


def test_rules_change_while_it_runs(box: Box, outside: Outside) -> None:
    assert reaches(box, PUBLIC)
    box.set_policy(NetworkPolicy(deny_out=(EVERYTHING,)))
    assert not reaches(box, PUBLIC)
    box.set_policy(NetworkPolicy(allow_out=(OTHER_PUBLIC,), deny_out=(EVERYTHING,)))
    assert reaches(box, OTHER_PUBLIC)
    assert not reaches(box, PUBLIC)
    box.set_policy(NetworkPolicy())
    assert reaches(box, PUBLIC)


def test_a_closed_connection_stays_closed_after_new_rules(box: Box, outside: Outside) -> None:
    """New rules also hold for connections that are open."""
    box.sh(f"curl -s http://{PUBLIC}:{PORT}/ >/dev/null")
    box.sh(
        "cat > /tmp/hold.py <<'E'\nimport socket, time, sys\n"
        f"s = socket.create_connection(('{PUBLIC}', {PORT})); open('/tmp/open', 'w').close()\n"
        "while not __import__('os').path.exists('/tmp/go'): time.sleep(0.05)\n"
        "s.settimeout(3)\n"
        "try: s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(len(s.recv(100)) > 0)\n"
        "except OSError: print(False)\nE\n"
        "(python3 /tmp/hold.py > /tmp/result &) ; while [ ! -e /tmp/open ]; do sleep 0.1; done"
    )
    box.set_policy(NetworkPolicy(deny_out=(EVERYTHING,)))
    assert box.sh("touch /tmp/go; while ! grep -q e /tmp/result; do sleep 0.1; done; cat /tmp/result") == "False"


def test_real_names_resolve(box: Box) -> None:
    """With the host's own name servers: the name of this machine's Debian mirror, if they know it."""
    name = urlsplit(machine_archives().main[0]).hostname
    try:
        socket.getaddrinfo(name, 443, socket.AF_INET)
    except OSError:
        pytest.skip("this host resolves no public names")
    assert box.sh(f"getent ahostsv4 {name} | head -1")


def test_a_port_that_tcp_has_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = dns._bound
    taken: list[socket.socket] = []

    def bound_late(kind: socket.SocketKind, port: int) -> socket.socket:
        if kind == socket.SOCK_STREAM and not taken:
            taken.append(bound(kind, port))
            taken[0].listen()
        return bound(kind, port)

    monkeypatch.setattr(dns, "_bound", bound_late)
    udp, tcp = dns._bound_pair()
    with udp, tcp, taken[0]:
        assert udp.getsockname() == tcp.getsockname() != taken[0].getsockname()


def test_remains_of_a_sandbox_hold_no_port_of_the_next(create: Callable[..., Box], runtime: str) -> None:
    """In crun, connections outlive their process for a minute, in a network namespace that would be used again."""
    if runtime != "crun":
        pytest.skip("gVisor's connections end with its kernel")
    box = create()
    box.python(
        "import socket\n"
        "server = socket.socket()\n"
        "server.bind(('127.0.0.1', 49999)); server.listen()\n"
        "client = socket.create_connection(('127.0.0.1', 49999))\n"
        "server.accept()[0].close(); client.recv(1); client.close()"
    )
    slots, number = box.machine.node._slots, box.machine.node._sandboxes[box.id].slot.number
    box.kill()
    wait_for(lambda: number not in slots._used)
    assert number not in slots._known, "its namespace is gone"
