"""A hostile guest and the server's relay for names."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.machines import wait_for

if TYPE_CHECKING:
    from tests.abuse.front import FrontBox
    from tests.live import Live
    from tests.node.outside import Outside

HOARD = """
import socket, time
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(("169.254.0.22", 53))
for number in range(512):
    more = str(number).encode()
    u.send(number.to_bytes(2, "big") + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4slow" + bytes([len(more)]) + more + b"\\7example\\0\\0\\1\\0\\1")
held = []
for _ in range(1000):
    try: s = socket.socket(); s.settimeout(1); s.connect(("169.254.0.22", 53)); held.append(s)
    except OSError: pass
time.sleep(60)
"""


def descriptors(live: Live) -> int:
    return len(os.listdir(f"/proc/{live.process.pid}/fd"))


def test_hoarded_connections_and_slow_queries(named: Live, two: tuple[FrontBox, FrontBox], outside: Outside) -> None:
    """A thousand connections and 512 queries that nobody answers: flat for the server, unnoticed by others, gone with a kill."""
    greedy, other = two
    assert other.sh("getent ahostsv4 one.example")
    before = most = descriptors(named)
    greedy.sh(f"cat > /tmp/hoard.py <<'E'\n{HOARD}\nE\n(setsid python3 /tmp/hoard.py >/dev/null 2>&1 &)")
    until = time.monotonic() + 8
    while time.monotonic() < until:
        assert other.sh("getent ahostsv4 one.example")
        most = max(most, descriptors(named))
    assert len([name for name in outside.asked() if name.startswith("slow")]) >= 64
    assert most - before < 150
    greedy.kill()
    wait_for(lambda: descriptors(named) < before + 20)
    assert other.sh("getent ahostsv4 one.example")
