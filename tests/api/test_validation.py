"""Bad input (current-protocol 2, 3.2, 3.9): every answer is 4xx with `code` and `message`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from tests.api.memory_node import MemoryNode

BAD_FIELDS: list[dict[str, Any]] = [
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": 24 * 3600 + 1},
    {"timeout": 1.5},
    {"timeout": "10"},
    {"timeout": True},
    {"templateID": 5},
    {"templateID": None},
    {"templateID": ""},
    {"templateID": "../base"},
    {"templateID": "a/b/c"},
    {"metadata": {"a": 1}},
    {"metadata": []},
    {"metadata": {"a": "\0"}},
    {"metadata": {"k" * 600: "v"}},
    {"envVars": {"": "1"}},
    {"envVars": {"A=B": "1"}},
    {"envVars": {"A": "x\0y"}},
    {"envVars": {"A": None}},
    {"autoResume": {"enabled": True}},
    {"autoPauseMemory": False},
    {"autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}},
    {"iam": {"tokens": {"t": {"audience": "a", "tokenType": "jwt"}}}},
    {"volumeMounts": [{"name": "v", "path": "/v"}]},
    {"sidecars": [{"entry": "valkey"}]},
    {"mcp": 5},
    {"network": 5},
    {"network": {"rules": {"a.com": []}}},
    {"network": {"egressProxy": {"address": "a:1"}}},
    {"network": {"httpsPorts": [49983]}},
    {"network": {"httpsPorts": [0]}},
    {"network": {"httpsPorts": [65536]}},
    {"network": {"httpsPorts": list(range(1, 130))}},
    {"network": {"maskRequestHost": ""}},
    {"network": {"maskRequestHost": "a b"}},
    {"network": {"maskRequestHost": "a\r\nX: y"}},
    {"network": {"maskRequestHost": "a/b"}},
    {"network": {"maskRequestHost": "a:99999"}},
    {"network": {"allowOut": ["example.com"]}},
    {"network": {"allowOut": ["exa mple.com"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": ["foo.*.com"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": ["*foo.com"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": ["1.2.3.400"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": ["1.2.3.4/33"]}},
    {"network": {"allowOut": ["::1"]}},
    {"network": {"allowOut": ["http://example.com"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": "1.1.1.1"}},
    {"network": {"denyOut": ["example.com"]}},
    {"network": {"denyOut": ["*"]}},
    {"network": {"dnsServers": ["1.1.1.1/32"]}},
    {"network": {"dnsServers": ["dns.example"]}},
    {"network": {"dnsServers": ["1.1.1.1"] * 11}},
]

GOOD_FIELDS: list[dict[str, Any]] = [
    {"timeout": 24 * 3600},
    {"timeout": None, "metadata": None, "envVars": None, "network": None, "mcp": None},
    {"mcp": {"server": {"key": "value"}}},
    {"iam": {"tokens": {}}, "volumeMounts": [], "sidecars": []},
    {"autoPause": False},
    {"network": {}},
    {"network": {"rules": {}, "egressProxy": None}},
    {"network": {"allowOut": ["1.1.1.1", "10.1.2.3/8"]}},
    {"network": {"allowOut": ["Example.com", "*.example.com", "*"], "denyOut": ["0.0.0.0/0"]}},
    {"network": {"allowOut": ["example.com"]}, "allow_internet_access": False},
    {"network": {"denyOut": ["8.8.8.8", "10.0.0.0/8"], "dnsServers": []}},
    {"network": {"maskRequestHost": "custom-host.example.com:${PORT}", "httpsPorts": [1, 65535]}},
    {"network": {"maskRequestHost": "${PORT}-x.example.com"}},
]


def check_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["code"] == status
    assert body["message"]
    assert set(body) <= {"code", "message", "error_code"}


@pytest.mark.parametrize("path", ["/v2/sandboxes", "/sandboxes"])
async def test_bad_creates(client: httpx.AsyncClient, node: MemoryNode, path: str) -> None:
    for fields in BAD_FIELDS:
        response = await client.post(path, json={"templateID": "base", **fields})
        assert response.status_code == 400, f"{json.dumps(fields)[:200]}: {response.text}"
        check_error(response, 400)
    assert not node.machine


async def test_good_creates(client: httpx.AsyncClient) -> None:
    for fields in GOOD_FIELDS:
        response = await client.post("/v2/sandboxes", json={"templateID": "base", **fields})
        assert response.status_code == 201, f"{fields}: {response.text}"


async def test_private_ports_need_a_secured_sandbox(client: httpx.AsyncClient) -> None:
    body = {"templateID": "base", "network": {"allowPublicTraffic": False}}
    check_error(await client.post("/sandboxes", json=body), 400)
    assert (await client.post("/sandboxes", json=body | {"secure": True})).status_code == 201


BAD_BODIES = [
        b"", b"{", b"[]", b"null", b'"x"', b"5", b"{}", b"\xff\xfe", b'{"templateID": "base\\ud800"}', b"[" * 100_000,
        b'{"templateID": "base", "mcp": {"x": NaN}}', b'{"templateID": "base",}',
]  # fmt: skip


async def test_bodies_that_are_no_request(client: httpx.AsyncClient) -> None:
    for content in BAD_BODIES:
        check_error(await client.post("/v2/sandboxes", content=content), 400)


async def test_chunked_bodies(server_url: str, control: Any) -> None:
    import httpx

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"templateID": '
        yield b'"base"}'

    async def flood() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (1 << 16)

    async with httpx.AsyncClient(base_url=server_url, headers={"X-API-KEY": control.first_key}) as client:
        response = await client.post("/v2/sandboxes", content=chunks())
        assert response.status_code == 201
        assert "content-length" not in response.request.headers
        check_error(await client.post("/v2/sandboxes", content=flood()), 413)


async def test_oversized_body(client: httpx.AsyncClient) -> None:
    check_error(await client.post("/v2/sandboxes", content=b" " * ((1 << 20) + 1)), 413)


async def test_unknown_routes_and_methods(client: httpx.AsyncClient) -> None:
    for path in ("/", "/nothing", "/v2/nothing", "//sandboxes", "/sandboxes/", "/sandboxes/a/b/c", "/v2%2Fsandboxes"):
        check_error(await client.get(path), 404)
    wrong = await client.put("/v2/sandboxes")
    check_error(wrong, 405)
    assert {part.strip() for part in wrong.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}


async def test_ids_that_cannot_be(client: httpx.AsyncClient) -> None:
    for sandbox_id in ("%2e%2e%2fetc", "UPPER", "a%00b", "%ff", "i" * 400, "%C3%A9", "a%3Ab"):
        check_error(await client.get(f"/sandboxes/{sandbox_id}"), 404)
        check_error(await client.delete(f"/sandboxes/{sandbox_id}"), 404)


async def test_bad_timeouts(client: httpx.AsyncClient) -> None:
    made = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()
    for body in ({}, {"timeout": -1}, {"timeout": 90_000}, {"timeout": "5"}, {"timeout": None}):
        check_error(await client.post(f"/sandboxes/{made['sandboxID']}/timeout", json=body), 400)


async def test_bad_forks(client: httpx.AsyncClient) -> None:
    for body in ({"count": 0}, {"count": 101}, {"timeout": 0}, {"count": "2"}):
        check_error(await client.post(f"/sandboxes/i{'0' * 20}/fork", json=body), 400)


async def test_network_update_replaces_all_egress(client: httpx.AsyncClient, node: MemoryNode) -> None:
    network = {"denyOut": ["8.8.8.8"], "dnsServers": ["9.9.9.9"], "maskRequestHost": "h", "allowPublicTraffic": True}
    made = (await client.post("/v2/sandboxes", json={"templateID": "base", "network": network})).json()
    sandbox_id = made["sandboxID"]
    path = f"/sandboxes/{sandbox_id}/network"
    change = {"allowOut": ["EXAMPLE.com", "1.2.3.4/8"], "allow_internet_access": False}
    response = await client.put(path, json=change)
    assert (response.status_code, response.content) == (204, b"")
    policy = node.policies[sandbox_id]
    assert policy.allow_out == ("example.com", "1.0.0.0/8")
    assert policy.deny_out == ("0.0.0.0/0",)
    assert policy.dns_servers is None
    body = (await client.get(f"/sandboxes/{sandbox_id}")).json()
    kept = {"maskRequestHost": "h", "allowPublicTraffic": True}
    assert body["network"] == kept | {"allowOut": ["EXAMPLE.com", "1.2.3.4/8"]}
    assert body["allowInternetAccess"] is False
    assert (await client.put(path, json={})).status_code == 204
    assert node.policies[sandbox_id].allow_out == node.policies[sandbox_id].deny_out == ()
    assert (await client.get(f"/sandboxes/{sandbox_id}")).json()["network"] == kept
    check_error(await client.put(path, json={"denyOut": ["example.com"]}), 400)
    check_error(await client.put(path, json={"rules": {"a.com": []}}), 400)
    check_error(await client.put(f"/sandboxes/i{'0' * 20}/network", json={}), 404)


async def test_no_internet_means_deny_all(client: httpx.AsyncClient, node: MemoryNode) -> None:
    body = {"templateID": "base", "allow_internet_access": False}
    made = (await client.post("/v2/sandboxes", json=body)).json()
    assert node.policies[made["sandboxID"]].deny_out == ("0.0.0.0/0",)


async def test_browsers_may_call(client: httpx.AsyncClient) -> None:
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = await client.options("/v2/sandboxes", headers=ask | {"Access-Control-Request-Headers": "x-api-key"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = await client.get("/v2/sandboxes", headers={"Origin": "https://app.example"})
    assert "X-Next-Token" in answer.headers["access-control-expose-headers"]


async def test_the_template_that_clients_ask_for_with_mcp(client: httpx.AsyncClient) -> None:
    response = await client.post("/v2/sandboxes", json={"templateID": "mcp-gateway", "mcp": {"exa": {}}})
    check_error(response, 404)
    assert "build a template of this name" in response.json()["message"]


async def test_volumes_and_secrets_are_not_there(client: httpx.AsyncClient) -> None:
    """An error of its own: a 404 would say that this one volume does not exist."""
    for method, path in (("POST", "/volumes"), ("GET", "/volumes/v"), ("GET", "/secrets"), ("DELETE", "/secrets/s")):
        response = await client.request(method, path)
        check_error(response, 501)
        assert "this server" in response.json()["message"]
