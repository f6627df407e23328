"""Somewhere else on the internet, for tests: a network namespace whose addresses this host, and so every sandbox, has routes to."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machines import WORKER, new_name

if TYPE_CHECKING:
    from collections.abc import Sequence


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Elsewhere:
    """The namespace, named `name`; to be entered."""

    def __init__(self, host: str, addresses: Sequence[str]) -> None:
        """`host` is the address that it sees this host with."""
        self._host = host
        self._addresses = addresses

    def __enter__(self) -> Elsewhere:
        self.name = new_name()
        try:
            self._make()
        except BaseException:
            Elsewhere.__exit__(self)
            raise
        return self

    def _make(self) -> None:
        link, peer = f"{self.name}-out", f"{self.name}-in"
        _ip("netns", "add", self.name)
        _ip("link", "add", link, "type", "veth", "peer", "name", peer)
        _ip("link", "set", peer, "netns", self.name)
        _ip("addr", "add", f"{self._host}/32", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", self.name, "link", "set", peer, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        for address in self._addresses:
            _ip("-n", self.name, "addr", "add", f"{address}/32", "dev", peer)
            # Two workers may have a machine elsewhere at a time, and some addresses are everybody's.
            _ip("route", "add", f"{address}/32", "dev", link, "metric", str(100 + WORKER))
        _ip("-n", self.name, "route", "add", "default", "dev", peer)

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self.name)
        deadline = time.monotonic() + 5
        while Path(f"/sys/class/net/{self.name}-out").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
