"""A hostile guest that does not answer, or says too much: its owner waits for a bounded time, and nobody else at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.abuse.front import FrontBox
from tests.machines import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live import Live

pytestmark = pytest.mark.timeout(120)
MIB = 1 << 20
HOLD = r"""
cat > /root/hold.py <<'END'
import ctypes, time
time.sleep(0.5)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(16, 1, 0, 0) == 0  # PTRACE_ATTACH
time.sleep(1000)
END
(setsid python3 /root/hold.py > /dev/null 2>&1 &)
"""


def held(box: FrontBox) -> bool:
    """Whether its agent has stopped answering."""
    try:
        with box.http() as http:
            http.get("/health", timeout=1)
    except httpx.TimeoutException:
        return True
    return False


def peak(live: Live) -> int:
    """The most memory that the server has had since `reset`, in bytes (proc(5))."""
    status = Path(f"/proc/{live.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) << 10


def reset(live: Live) -> int:
    Path(f"/proc/{live.process.pid}/clear_refs").write_text("5")
    return peak(live)


def test_root_stops_the_agent(server: Live, create: Callable[..., FrontBox], runtime: str) -> None:
    """A pause of it ends in bounded time, another tenant's sandbox starts and works meanwhile, and a kill needs no agent."""
    box = create(timeout=600)
    box.sh(HOLD)
    wait_for(lambda: held(box))
    headers = {"X-API-KEY": server.another_team()}
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.api_url, headers=headers, timeout=60) as other:
        pausing = pool.submit(server.api.post, f"/sandboxes/{box.id}/pause", json={})
        made = other.post("/v2/sandboxes", json={"templateID": "base"})
        assert made.status_code == 201, made.text
        theirs = FrontBox(server, made.json()["sandboxID"], made.json()["envdAccessToken"])
        assert theirs.alive()
        assert other.delete(f"/sandboxes/{theirs.id}").status_code == 204
        # gVisor keeps its memory, and says that the agent did not answer; crun needs nothing of it for the files.
        assert pausing.result(60).status_code in (204, 503), pausing.result().text
    again = create(timeout=600)
    again.sh(HOLD)
    wait_for(lambda: held(again))
    assert server.api.delete(f"/sandboxes/{again.id}").status_code == 204
    assert server.api.get(f"/sandboxes/{again.id}").status_code == 404


def test_a_ready_command_that_prints_without_end(server: Live, runtime: str) -> None:
    """40 MB of it are passed over; what the build says has the end of them."""
    made = server.api.post("/v3/templates", json={"name": f"loud-{runtime}"}).json()
    build = f"/templates/{made['templateID']}/builds/{made['buildID']}"
    ready = "head -c 40000000 /dev/zero | tr '\\0' x"
    before = reset(server)
    body = {"fromTemplate": "base", "steps": [], "force": True, "readyCmd": ready}
    assert server.api.post(f"/v2{build}", json=body).status_code == 202
    wait_for(lambda: server.api.get(f"{build}/status").json()["status"] in ("ready", "error"), seconds=100)
    assert server.api.get(f"{build}/status").json()["status"] == "ready"
    assert peak(server) - before < 32 * MIB
    assert server.api.delete(f"/templates/{made['templateID']}").status_code == 204
