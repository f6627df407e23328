"""Lists and their filters (current-protocol 2.4, 3.5, 11.2), metrics (3.8), logs (code-interpreter 3.7)."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode


async def create(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v2/sandboxes", json={"templateID": "base", **fields})
    assert response.status_code == 201, response.text
    return str(response.json()["sandboxID"])


async def ids(client: httpx.AsyncClient, query: str = "") -> list[str]:
    response = await client.get(f"/v2/sandboxes?{query}")
    assert response.status_code == 200, response.text
    return [item["sandboxID"] for item in response.json()]


def encoded(metadata: dict[str, str]) -> str:
    """As the official clients do it: each part, then as a form, then as a query value."""
    form = urlencode({quote(key): quote(value) for key, value in metadata.items()})
    return urlencode({"metadata": form})


async def test_item_and_order(client: httpx.AsyncClient) -> None:
    first, second = await create(client, metadata={"a": "b"}), await create(client)
    response = await client.get("/v2/sandboxes")
    assert [item["sandboxID"] for item in response.json()] == [second, first]
    assert response.headers["x-total-running"] == "2"
    assert "x-next-token" not in response.headers
    new, old = response.json()
    assert set(old) == {
        "templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "state",
        "envdVersion", "alias", "metadata",
    }  # fmt: skip
    assert (old["metadata"], new["metadata"]) == ({"a": "b"}, {})
    assert await ids(client, "order=asc") == [first, second]
    assert await ids(client, "order=desc") == [second, first]
    v1 = await client.get("/sandboxes")
    assert [item["sandboxID"] for item in v1.json()] == [second, first]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages(client: httpx.AsyncClient, order: str) -> None:
    made = [await create(client) for _ in range(5)]
    seen: list[str] = []
    token = ""
    for _ in range(3):
        response = await client.get(f"/v2/sandboxes?limit=2&order={order}&nextToken={token}")
        seen += [item["sandboxID"] for item in response.json()]
        token = response.headers.get("x-next-token", "")
    assert token == ""
    assert seen == (made if order == "asc" else made[::-1])


async def test_cursor_has_the_official_form(client: httpx.AsyncClient) -> None:
    made = [await create(client) for _ in range(2)]
    token = (await client.get("/v2/sandboxes?limit=1")).headers["x-next-token"]
    when, sandbox_id = base64.urlsafe_b64decode(token).decode().split("__")
    assert datetime.fromisoformat(when).tzinfo is not None
    assert sandbox_id == made[1]


@pytest.mark.parametrize(
    "metadata",
    [{"a b": "c&d"}, {"a": "b", "c": "d"}, {"=&%": "%25+/"}, {"ü": "日本"}, {"a": ""}, {'q"uote': "x'y"}],
)
async def test_metadata_filter(client: httpx.AsyncClient, metadata: dict[str, str]) -> None:
    match = await create(client, metadata=metadata | {"more": "x"})
    await create(client, metadata=dict.fromkeys(metadata, "other"))
    await create(client)
    assert await ids(client, encoded(metadata)) == [match]
    assert [item["sandboxID"] for item in (await client.get(f"/sandboxes?{encoded(metadata)}")).json()] == [match]
    item = (await client.get(f"/v2/sandboxes?{encoded(metadata)}")).json()[0]
    assert item["metadata"] == metadata | {"more": "x"}


async def test_metadata_example_of_the_protocol(client: httpx.AsyncClient) -> None:
    match = await create(client, metadata={"a b": "c&d"})
    assert await ids(client, "metadata=a%252520b%3Dc%252526d") == [match]


async def test_state_and_template_filters(client: httpx.AsyncClient) -> None:
    base = await create(client)
    other = await create(client, templateID="code-interpreter-v1")
    assert await ids(client, "state=running") == [other, base]
    assert await ids(client, "state=running%2Cpaused") == [other, base]
    assert await ids(client, "state=paused") == []
    assert await ids(client, "template=BASE") == [base]
    assert await ids(client, "template=code0000000000000000") == [other]
    assert await ids(client, "template=nothing") == []


async def test_started_after_is_inclusive(client: httpx.AsyncClient) -> None:
    made = await create(client)
    started = datetime.fromisoformat((await client.get(f"/sandboxes/{made}")).json()["startedAt"])
    for shift, expected in ((-1, [made]), (0, [made]), (1, [])):
        when = (started + timedelta(microseconds=shift)).isoformat()
        assert await ids(client, urlencode({"startedAfter": when})) == expected
        assert await ids(client, "startedAfter=" + when) == expected  # an offset's '+' left as it is


BAD_QUERIES = [
        "limit=0", "limit=101", "limit=x", "limit=1.5", "limit=-1", "order=up", "state=dead", "state=running,dead",
        "nextToken=x", "nextToken=!!", "nextToken=" + base64.urlsafe_b64encode(b"a__b").decode(),
        "nextToken=" + base64.urlsafe_b64encode(b"2026-01-01T00:00:00__i").decode(),
        "nextToken=" + base64.urlsafe_b64encode(b"2026-01-01T00:00:00Z__i__asc").decode(),
        "startedAfter=yesterday", "startedAfter=2026-01-01T00:00:00", "startedAfter=2026-01-01",
        "metadata=a", "metadata=a%3Db%3Dc", "metadata=%25ff%3Da", "template=base:default", "template=a/b/c",
]  # fmt: skip


async def test_bad_filters(client: httpx.AsyncClient) -> None:
    for query in BAD_QUERIES:
        response = await client.get(f"/v2/sandboxes?{query}")
        assert (response.status_code, response.json()["code"]) == (400, 400), query


async def test_killed_sandboxes_leave_the_list(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    made = await create(client)
    assert await ids(stranger) == []
    await client.delete(f"/sandboxes/{made}")
    response = await client.get("/v2/sandboxes")
    assert (response.json(), response.headers["x-total-running"]) == ([], "0")


async def test_metrics(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    made = await create(client)
    path = f"/sandboxes/{made}/metrics"
    samples: list[dict[str, Any]] = []
    for _ in range(200):
        samples = (await client.get(path)).json()
        if len(samples) > 1:
            break
        await asyncio.sleep(0.02)
    assert samples[0] == {
        "timestamp": samples[0]["timestamp"],
        "timestampUnix": int(datetime.fromisoformat(samples[0]["timestamp"]).timestamp()),
        "cpuCount": 2,
        "cpuUsedPct": 12.5,
        "memUsed": 100 << 20,
        "memTotal": 512 << 20,
        "memCache": 10 << 20,
        "diskUsed": 5 << 30,
        "diskTotal": 10 << 30,
    }
    assert samples[0]["timestamp"] < samples[1]["timestamp"]
    unix = samples[0]["timestampUnix"]
    assert len((await client.get(f"{path}?start={unix - 10}&end={unix + 10}")).json()) >= 2
    assert (await client.get(f"{path}?start={unix - 1000}&end={unix - 900}")).json() == []
    assert (await client.get(f"{path}?start=2&end=1")).status_code == 400
    assert (await client.get(f"{path}?start=999999999999999999")).status_code == 400
    assert (await stranger.get(path)).status_code == 404
    many = (await client.get(f"/sandboxes/metrics?sandbox_ids={made},i{'0' * 20}")).json()
    assert set(many["sandboxes"]) == {made}
    assert (await stranger.get(f"/sandboxes/metrics?sandbox_ids={made}")).json() == {"sandboxes": {}}
    too_many = ",".join(["i"] * 101)
    assert (await client.get(f"/sandboxes/metrics?sandbox_ids={too_many}")).status_code == 400


async def test_logs(client: httpx.AsyncClient, stranger: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await create(client)
    await client.delete(f"/sandboxes/{made}")
    v1 = (await client.get(f"/sandboxes/{made}/logs")).json()
    lines = [json.loads(entry["line"]) for entry in v1["logs"]]
    assert [line["message"] for line in lines] == ["sandbox created", "sandbox ended: killed"]
    assert all(line["level"] == "info" and line["logger"] for line in lines)
    assert [entry["message"] for entry in v1["logEntries"]] == [line["message"] for line in lines]
    last = int(datetime.fromisoformat(v1["logs"][-1]["timestamp"]).timestamp() * 1000)
    assert (await client.get(f"/sandboxes/{made}/logs?start={last + 1}")).json()["logs"] == []
    assert len((await client.get(f"/sandboxes/{made}/logs?limit=1")).json()["logs"]) == 1
    v2 = f"/v2/sandboxes/{made}/logs"
    newest = (await client.get(f"{v2}?direction=backward&limit=1")).json()["logs"]
    assert newest[0]["message"] == "sandbox ended: killed"
    assert newest[0]["fields"]["reason"] == "killed"
    assert len((await client.get(f"{v2}?search=created")).json()["logs"]) == 1
    assert (await client.get(f"{v2}?level=error")).json() == {"logs": []}
    assert (await client.get(f"{v2}?search=%25")).json() == {"logs": []}
    for bad in ("level=loud", "direction=up", "limit=1001", "limit=-1", "cursor=x"):
        assert (await client.get(f"{v2}?{bad}")).status_code == 400
    assert (await stranger.get(f"/sandboxes/{made}/logs")).json() == {"logs": [], "logEntries": []}
