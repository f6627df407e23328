"""A machine elsewhere, for network tests: a network namespace with addresses of all kinds, that answers on TCP and for names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
from tests.elsewhere import Elsewhere
from tests.machines import WORKER

_LAST = 70 + WORKER % 8
PUBLIC = f"203.0.113.{_LAST}"
"""Documentation addresses (RFC 5737): public as far as the rules know, and nobody has them."""
OTHER_PUBLIC = f"198.51.100.{_LAST}"
CLOSED = (f"10.77.77.{_LAST}", f"172.16.77.{_LAST}", f"192.168.77.{_LAST}", "169.254.169.254", f"100.64.77.{_LAST}")
PORT = 8077
NAMES = {"one.example": PUBLIC, "two.example": OTHER_PUBLIC, "www.wild.example": PUBLIC, "wild.example": OTHER_PUBLIC}
_HOST = f"192.0.2.{_LAST}"


class Outside(Elsewhere):
    """The namespace; the host has routes to all of its addresses. Each worker of the tests has addresses of its own."""

    def __init__(self) -> None:
        super().__init__(_HOST, (PUBLIC, OTHER_PUBLIC, *CLOSED))

    def __enter__(self) -> Outside:
        super().__enter__()
        program = [sys.executable, "-I", str(Path(__file__).with_name("outside_server.py")), str(PORT), PUBLIC]
        names = [f"{name}={address}" for name, address in NAMES.items()]
        self._server = subprocess.Popen(
            ["ip", "netns", "exec", self.name, *program, *names], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "ready\n":
            self.__exit__()
            raise AssertionError("the machine elsewhere does not answer")
        return self

    def peers(self) -> set[str]:
        """Addresses that have connected since the last question."""
        answer = httpx.get(f"http://{PUBLIC}:{PORT}/peers", timeout=5)
        return set(answer.json()) - {_HOST}

    def asked(self) -> list[str]:
        """What the name server was asked since the last question: names and types, `one.example/1`."""
        found: list[str] = httpx.get(f"http://{PUBLIC}:{PORT}/asked", timeout=5).json()
        return found

    def __exit__(self, *exception: object) -> None:
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        super().__exit__(*exception)
