"""Where the server can be reached at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import httpx
import pytest
from tests.node.test_network import host_addresses

from sandpit.node.config import GATEWAY_ADDRESS

if TYPE_CHECKING:
    from tests.abuse.front import FrontBox
    from tests.live import Live

_LISTEN = "0A"
_BOUND_UDP = "07"


def inodes(pid: int) -> set[str]:
    """Socket inodes that a process holds."""
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.add(os.readlink(path))
        except FileNotFoundError:
            continue
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def listening(pid: int, kind: str) -> set[tuple[str, int]]:
    """Addresses and ports at which a process waits for strangers (proc(5), /proc/net)."""
    own, found = inodes(pid), set()
    wanted = _LISTEN if kind.startswith("tcp") else _BOUND_UDP
    for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
        words = line.split()
        if words[9] in own and words[3] == wanted:
            address, port = words[1].split(":")
            raw = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
            found.add((socket.inet_ntop(socket.AF_INET6 if kind.endswith("6") else socket.AF_INET, raw), int(port, 16)))
    return found


def test_the_server_listens_where_it_must_only(live: Live) -> None:
    """API and gateway on loopback, the relay for names on the sandboxes' gateway address, and the operator's unix socket."""
    pid = live.process.pid
    doors = {("127.0.0.1", httpx.URL(url).port) for url in (live.api_url, live.edge_url, live.tls_url)}
    names = listening(pid, "udp")
    assert {address for address, _ in names} == {str(GATEWAY_ADDRESS)}
    assert len(names) == 1
    assert listening(pid, "tcp") == doors | names
    assert listening(pid, "tcp6") == {("::1", httpx.URL(live.tls_url).port)}
    assert listening(pid, "udp6") == set()
    own = inodes(pid)
    lines = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    bound = {words[7] for words in lines if words[6] in own and len(words) > 7}
    assert bound == {str(live.run_dir / "control.sock")}
    assert (live.run_dir / "control.sock").stat().st_mode & 0o077 == 0
    for raw in ("raw", "packet"):
        inode = {"raw": 9, "packet": 8}[raw]
        held = [line.split()[inode] for line in Path(f"/proc/{pid}/net/{raw}").read_text().splitlines()[1:]]
        assert not own & set(held)


def test_other_addresses_of_the_host_answer_nothing(live: Live) -> None:
    others = host_addresses() - {"127.0.0.1"}
    assert others
    for url in (live.api_url, live.edge_url, live.tls_url):
        for address in others:
            with (
                pytest.raises(OSError, match="refused"),
                socket.create_connection((address, httpx.URL(url).port or 0), 5),
            ):
                pass


def test_names_are_for_sandboxes_only(live: Live) -> None:
    [(address, port)] = listening(live.process.pid, "udp")
    question = dns.message.make_query("one.example", "A")
    assert dns.query.udp(question, address, port=port, timeout=10).rcode() == dns.rcode.REFUSED
    assert dns.query.tcp(question, address, port=port, timeout=10).rcode() == dns.rcode.REFUSED


def test_no_door_opens_from_inside(live: Live, box: FrontBox) -> None:
    """Neither the public ports nor other sandboxes' agents, under any address of the host."""
    ports = [httpx.URL(url).port for url in (live.api_url, live.edge_url, live.tls_url)]
    addresses = sorted(host_addresses() | {str(GATEWAY_ADDRESS), "169.254.169.254", "192.168.0.1", "10.0.0.1"})
    probe = (
        "import socket\n"
        f"for address in {addresses!r}:\n"
        f"    for port in {[*ports, 22, 80, 49983]!r}:\n"
        "        if address.startswith('127.') and port == 49983: continue\n"
        "        try: socket.create_connection((address, port), 0.5).close()\n"
        "        except OSError: continue\n"
        "        print(address, port)\n"
    )
    assert box.sh(f"python3 - <<'END'\n{probe}\nEND") == ""
