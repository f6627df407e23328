"""Metrics, logs and the agent's locks (current-protocol 11.11)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import e2b
import httpx
from tests.clients.flavours import got, until

if TYPE_CHECKING:
    from tests.clients.flavours import Create
    from tests.live import Live

    Sandbox = Any


async def test_metrics(create: Create) -> None:
    sandbox = await create()
    metrics = await until(lambda: sandbox.get_metrics())
    sample = metrics[0]
    assert sample.cpu_count >= 1
    assert sample.cpu_used_pct >= 0
    assert 0 < sample.mem_used < sample.mem_total
    assert 0 <= sample.disk_used < sample.disk_total
    assert sample.mem_total == (await got(sandbox.get_info())).memory_mb << 20

    now = datetime.now(UTC)
    soon, before = now + timedelta(seconds=10), now - timedelta(hours=1)
    ranged = await got(sandbox.get_metrics(start=before, end=soon))
    assert ranged
    assert all(before <= found.timestamp <= soon for found in ranged)
    assert await got(sandbox.get_metrics(start=before, end=now - timedelta(minutes=30))) == []


async def test_metrics_follow_what_the_sandbox_does(clients: dict[str, str]) -> None:
    with e2b.Sandbox.create() as sandbox:
        before: e2b.SandboxMetrics = (await until(sandbox.get_metrics))[-1]
        program = "kept = bytearray(150 << 20); import time; time.sleep(100)"
        sandbox.commands.run(f"head -c 60M /dev/urandom > filler; python3 -c '{program}'", background=True)

        def grown() -> bool:
            last: e2b.SandboxMetrics = sandbox.get_metrics()[-1]
            return last.mem_used > before.mem_used + (100 << 20) and last.disk_used > before.disk_used + (50 << 20)

        await until(grown)


async def test_metrics_of_many(clients: dict[str, str], live: Live) -> None:
    with e2b.Sandbox.create() as one, e2b.Sandbox.create() as two:
        ids = {one.sandbox_id, two.sandbox_id}

        def ask() -> dict[str, Any]:
            answer = live.api.get("/sandboxes/metrics", params={"sandbox_ids": ",".join([*ids, "iunknown"])})
            assert answer.status_code == 200
            found: dict[str, Any] = answer.json()["sandboxes"]
            return found

        found = await until(lambda: {} if set(found := ask()) != ids else found)
        assert all(sample["memTotal"] > 0 for sample in found.values())


def test_logs(clients: dict[str, str], live: Live) -> None:
    """They can be asked for in both generations, also of a sandbox that has ended."""
    with e2b.Sandbox.create() as sandbox:
        path = f"sandboxes/{sandbox.sandbox_id}/logs"
        for url, names in ((f"/{path}", {"logs", "logEntries"}), (f"/v2/{path}", {"logs"})):
            answer = live.api.get(url)
            assert (answer.status_code, set(answer.json())) == (200, names)
    assert live.api.get(f"/v2/{path}").status_code == 200
    assert live.api.get("/v2/sandboxes/iunknown/logs").json() == {"logs": []}


async def test_the_agent_demands_its_token(sandbox: Sandbox) -> None:
    url = sandbox.envd_api_url
    named = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    message = "unauthorized access, please provide a valid access token or method signing if supported"
    for headers in (named, {**named, "X-Access-Token": "wrong"}):
        for path in ("/process.Process/List", "/filesystem.Filesystem/ListDir"):
            answer = httpx.post(url + path, headers=headers, json={}, trust_env=False)
            assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": message})
        for path in ("/envs", "/metrics"):
            assert httpx.get(url + path, headers=headers, trust_env=False).status_code == 401
    assert httpx.get(f"{url}/health", headers=named, trust_env=False).status_code == 204
