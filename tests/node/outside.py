"""A machine elsewhere, for network tests: a network namespace with addresses of all kinds, that answers on TCP and for names."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
from tests.machines import new_name

PUBLIC = "203.0.113.77"
"""Documentation addresses (RFC 5737): public as far as the rules know, and nobody has them."""
OTHER_PUBLIC = "198.51.100.77"
CLOSED = ("10.77.77.77", "172.16.77.77", "192.168.77.77", "169.254.169.254", "100.64.77.77")
PORT = 8077
NAMES = {"one.example": PUBLIC, "two.example": OTHER_PUBLIC, "www.wild.example": PUBLIC, "wild.example": OTHER_PUBLIC}


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Outside:
    """The namespace; the host has routes to all of its addresses."""

    def __enter__(self) -> Outside:
        self.name = new_name()
        link, peer = f"{self.name}-out", f"{self.name}-in"
        _ip("netns", "add", self.name)
        _ip("link", "add", link, "type", "veth", "peer", "name", peer)
        _ip("link", "set", peer, "netns", self.name)
        _ip("addr", "add", "192.0.2.77/32", "dev", link)
        _ip("link", "set", link, "up")
        for address in (PUBLIC, OTHER_PUBLIC, *CLOSED):
            _ip("-n", self.name, "addr", "add", f"{address}/32", "dev", peer)
            if address == PUBLIC:
                _ip("-n", self.name, "link", "set", peer, "up")
                _ip("-n", self.name, "link", "set", "lo", "up")
                _ip("-n", self.name, "route", "add", "default", "dev", peer)
            _ip("route", "add", f"{address}/32", "dev", link)
        program = [sys.executable, "-I", str(Path(__file__).with_name("outside_server.py")), str(PORT)]
        names = [f"{name}={address}" for name, address in NAMES.items()]
        self._server = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *program, *names], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        return self

    def peers(self) -> set[str]:
        """Addresses that have connected since the last question."""
        answer = httpx.get(f"http://{PUBLIC}:{PORT}/peers", timeout=5)
        return set(answer.json()) - {"192.0.2.77"}

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        _ip("netns", "del", self.name)
        deadline = time.monotonic() + 5
        while Path(f"/sys/class/net/{self.name}-out").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
