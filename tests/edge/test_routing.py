"""Which sandbox and port; the refusals of current-protocol 1.7."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from tests.edge.edge_support import OK, SANDBOX, MemoryDirectory, answering, edge_for, free_port, raw, request, serving

from sandpit.edge.reserved import is_reserved
from sandpit.edge.routing import parse_port

if TYPE_CHECKING:
    from sandpit.edge import Edge


def by_host(host: str, path: str = "/", extra: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()


async def ask(edge: Edge, data: bytes) -> tuple[int, dict[str, str], bytes]:
    async with raw(edge, data) as client:
        return await client.answer()


@pytest.mark.parametrize(
    ("text", "port"),
    [
        (b"1", 1), (b"80", 80), (b"65535", 65535), (b"65536", None), (b"0", None), (b"080", None), (b"+80", None),
        (b"-1", None), (b" 80", None), (b"80 ", None), (b"", None), (b"8_0", None), (b"0x50", None), (b"80\n", None),
        ("٨٠".encode(), None), ("\uff18\uff10".encode(), None), (b"99999", None), (b"100000", None), (b"8e1", None),
    ],
)  # fmt: skip
def test_ports_are_canonical_decimals(text: bytes, port: int | None) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize("port", ["080", "+80", "65536", "-1", "0", "", "8O", "80,81", "8 0", "0x50"])
async def test_a_bad_port_header_is_refused(edge: Edge, port: str) -> None:
    status, fields, body = await ask(edge, request(port))
    assert status == 400
    assert fields["content-type"] == "application/json; charset=utf-8"
    assert json.loads(body)["code"] == 400


@pytest.mark.parametrize(
    "host",
    ["foo", "localhost", "127.0.0.1", "[::1]:80", "080-iabc123.x.dev", "+80-iabc123.x.dev", "70000-iabc123.x.dev",
     "80-iabc123-c-d.x.dev", "80-.x.dev", "80-i_bc.x.dev", "sandbox.x.dev", "api.x.dev", "80-iabc123", "abc-def.x.dev",
     "80-../x.dev", "", "a b.dev", "80-iabc123.x.dev:999999"],
)  # fmt: skip
async def test_a_host_that_names_no_sandbox_is_refused(edge: Edge, host: str) -> None:
    status, _, body = await ask(edge, by_host(host))
    assert status == 400, body
    assert json.loads(body)["code"] == 400


@pytest.mark.parametrize(
    "host",
    ["{p}-iabc123.x.dev", "{p}-iabc123.x.dev:3443", "{p}-iabc123-client1.x.dev", "{p}-IABC123.X.dev", "{p}-iabc123.x."],
)
async def test_host_names_reach_the_port(edge: Edge, host: str) -> None:
    async with serving(answering(OK)) as port:
        assert (await ask(edge, by_host(host.format(p=port))))[2] == b"ok"


async def test_the_2024_name_without_a_port_means_port_80(edge: Edge) -> None:
    _, _, body = await ask(edge, by_host("iabc123-client1.x.dev"))
    assert json.loads(body)["port"] == 80


@pytest.mark.parametrize("host", ["localhost:3002", "127.0.0.1", "[::1]", "sandbox.x.dev", "anything.example", "name"])
async def test_routing_headers_work_on_any_host(edge: Edge, host: str) -> None:
    async with serving(answering(OK)) as port:
        extra = f"E2b-Sandbox-Id: {SANDBOX}\r\nE2b-Sandbox-Port: {port}\r\n"
        assert (await ask(edge, by_host(host, extra=extra)))[2] == b"ok"


async def test_credentials_name_the_sandbox_for_2024_clients_without_dns(edge: Edge) -> None:
    async with serving(answering(OK)) as port:
        value = base64.b64encode(f"{port}-{SANDBOX}-client.any:any".encode()).decode()
        assert (await ask(edge, by_host("localhost:3000", extra=f"Authorization: Basic {value}\r\n")))[2] == b"ok"


async def test_the_access_token_names_the_agent_where_nothing_else_does(directory: MemoryDirectory, edge: Edge) -> None:
    directory.add("ifirst", access_token="one")
    directory.add("isecond", access_token="two")
    path = "/process.Process/List"
    _, _, body = await ask(edge, by_host("127.0.0.1", path=path, extra="X-Access-Token: two\r\n"))
    assert (json.loads(body)["sandboxId"], json.loads(body)["port"]) == ("isecond", 49983)
    status, _, body = await ask(edge, by_host("127.0.0.1", path=path, extra="X-Access-Token: other\r\n"))
    assert (status, "sandboxId" in json.loads(body)) == (400, False)


async def test_the_name_of_the_api_decides_alone(edge: Edge) -> None:
    extra = f"E2b-Sandbox-Id: {SANDBOX}\r\nE2b-Sandbox-Port: 49983\r\n"
    status, _, body = await ask(edge, by_host("api.x.dev", extra=extra))
    assert (status, json.loads(body)["message"]) == (400, "Invalid host")  # this edge has no API


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("E2b-Sandbox-Id: iabc123\r\n", "E2b-Sandbox-Port"),
        ("E2b-Sandbox-Port: 80\r\n", "E2b-Sandbox-Id"),
        ("E2b-Sandbox-Id: ../x\r\nE2b-Sandbox-Port: 80\r\n", "E2b-Sandbox-Id"),
        ("E2b-Sandbox-Id: IABC\r\nE2b-Sandbox-Port: 80\r\n", "E2b-Sandbox-Id"),
    ],
)
async def test_the_faulty_routing_header_is_named(edge: Edge, extra: str, text: str) -> None:
    status, _, body = await ask(edge, by_host("127.0.0.1", extra=extra))
    assert status == 400
    assert text in json.loads(body)["message"]


@pytest.mark.parametrize(
    "data",
    [
        by_host("80-iother.x.dev", extra=f"E2b-Sandbox-Id: {SANDBOX}\r\nE2b-Sandbox-Port: 80\r\n"),
        by_host(f"81-{SANDBOX}.x.dev", extra=f"E2b-Sandbox-Id: {SANDBOX}\r\nE2b-Sandbox-Port: 80\r\n"),
        request(80, extra="E2b-Sandbox-Port: 80\r\n"),
        request(80, extra="e2b-sandbox-id: iother\r\n"),
        request(80, extra="Host: other\r\n"),
        request(80, path="http://elsewhere/x"),
        request(80, path="x"),
        request(80, path="*"),
        request(80, path="/a#b"),
    ],
)
async def test_contradictions_are_refused(edge: Edge, data: bytes) -> None:
    assert (await ask(edge, data))[0] == 400


async def test_an_unknown_sandbox_is_not_found(edge: Edge) -> None:
    status, fields, body = await ask(edge, request(49983, "/health", sandbox="igone"))
    assert status == 502
    assert json.loads(body) == {"sandboxId": "igone", "message": "The sandbox was not found", "code": 502}
    assert fields["access-control-allow-origin"] == "*"


async def test_a_closed_port_is_told_with_its_number(edge: Edge) -> None:
    port = free_port()
    status, _, body = await ask(edge, request(port))
    assert status == 502
    assert json.loads(body) == {
        "sandboxId": SANDBOX,
        "message": "The sandbox is running but port is not open",
        "port": port,
        "code": 502,
    }


async def test_people_get_a_page(edge: Edge) -> None:
    agent = "User-Agent: Mozilla/5.0 (X11) Chrome/130\r\n"
    _, fields, body = await ask(edge, request(80, sandbox="igone", extra=agent))
    assert fields["content-type"] == "text/html; charset=utf-8"
    assert b"Sandbox Not Found" in body
    assert b"igone" in body
    port = free_port()
    _, _, body = await ask(edge, request(port, extra=agent))
    assert b"<title>Closed Port Error</title>" in body
    assert b"no service running on port" in body
    assert str(port).encode() in body
    _, fields, _ = await ask(edge, request(port, extra=agent + "Sec-Fetch-Mode: cors\r\n"))
    assert fields["content-type"].startswith("application/json")


async def test_a_page_escapes_what_a_client_sent(edge: Edge) -> None:
    _, _, body = await ask(edge, request(49983, "/init/<script>", extra="User-Agent: Mozilla\r\n"))
    assert b"<script>" not in body


async def test_private_ports_demand_the_traffic_token(directory: MemoryDirectory) -> None:
    directory.add(traffic_token="secret")
    async with edge_for(directory) as edge, serving(answering(OK)) as port, serving(answering(OK), port=49983):
        status, _, body = await ask(edge, request(port))
        assert (status, json.loads(body)) == (
            403,
            {
                "sandboxId": SANDBOX,
                "message": "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token'"
                " is missing",
                "code": 403,
            },
        )
        status, _, body = await ask(edge, request(port, extra="E2B-Traffic-Access-Token: secre\r\n"))
        assert status == 403
        assert "Provided token in header 'e2b-traffic-access-token' is invalid" in json.loads(body)["message"]
        assert (await ask(edge, request(port, extra="e2b-traffic-access-token: secret\r\n")))[2] == b"ok"
        twice = "e2b-traffic-access-token: secret\r\n" * 2
        assert (await ask(edge, request(port, extra=twice)))[0] == 400
        assert (await ask(edge, request(49983)))[2] == b"ok"
        assert (await ask(edge, request(49982)))[0] == 403
        page = (await ask(edge, request(port, extra="User-Agent: Firefox\r\n")))[2]
        assert b"Missing Traffic Access Token" in page


async def test_a_preflight_passes_so_that_the_refusal_can_be_read(edge: Edge) -> None:
    extra = (
        "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-a\r\n"
    )
    status, fields, body = await ask(edge, request(80, method="OPTIONS", extra=extra, sandbox="igone"))
    assert (status, body) == (204, b"")
    assert fields["access-control-allow-headers"] == "x-a"


SPELLINGS = [
    "/init", "//init", "/%69nit", "/./init", "/x/../init", "/init/", "/INIT", "/Init?x=1", "/init?", "/%2e/init",
    "/%2finit", "/..//init", "/a/b/../../init", "/%2569nit", "/init;a=b", "/;a/init", "\\init"[0:0] + "/%5cinit",
    "/init%20", "/%09init", "/init/x", "/init%00", "/x/%2e%2e/init", "/init/../init", "/init%2f", "/init%3fx",
    "/freeze", "/unfreeze", "/disk", "/changes", "/journal", "/memory", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade",
    "/init/../health", "/%EF%BD%89nit",
    "/%252525252569nit", "http://127.0.0.1/init", "HTTP://127.0.0.1//init", "http://127.0.0.1/%69nit?a",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
@pytest.mark.parametrize("port", [49983, 49982])
async def test_no_spelling_reaches_the_control_calls(edge: Edge, path: str, port: int) -> None:
    seen: list[bytes] = []
    async with serving(answering(OK, seen=seen), port=port):
        status, _, body = await ask(edge, request(port, path, "POST"))
        assert status == 404
        assert json.loads(body)["code"] == 404
        assert "reserved for the control plane" in json.loads(body)["message"]
        assert "path" in json.loads(body)
        assert not seen


@pytest.mark.parametrize("path", ["/health", "/", "/files?path=/init", "/process.Process/Start", "/initial", "/x/init"])
async def test_other_agent_paths_pass(edge: Edge, path: str) -> None:
    async with serving(answering(OK), port=49983):
        assert (await ask(edge, request(49983, path)))[2] == b"ok"
    assert not is_reserved(path.partition("?")[0].encode())


async def test_user_ports_may_have_any_path(edge: Edge) -> None:
    async with serving(answering(OK)) as port:
        assert (await ask(edge, request(port, "/init")))[2] == b"ok"


async def test_the_relay_cannot_be_reached(edge: Edge) -> None:
    seen: list[bytes] = []
    async with serving(answering(OK, seen=seen), port=49981):
        assert (await ask(edge, request(49981)))[0] == 404
        assert (await ask(edge, by_host(f"49981-{SANDBOX}.x.dev")))[0] == 404
        assert not seen


def sign(path: str, operation: str, user: str, token: str, expiration: str = "") -> str:
    raw_text = f"{path}:{operation}:{user}:{token}" + (f":{expiration}" if expiration else "")
    return "v1_" + base64.b64encode(hashlib.sha256(raw_text.encode()).digest()).decode().rstrip("=")


def test_the_signature_is_that_of_the_specification() -> None:
    vector = sign("hello.txt", "read", "user", "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0")
    assert vector == "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E"


@pytest.mark.parametrize(
    ("method", "user", "expiration"),
    [("GET", "user", ""), ("GET", "", "1"), ("POST", "user", "99999999999"), ("HEAD", "", "")],
)
async def test_a_signed_link_finds_its_sandbox(
    directory: MemoryDirectory, method: str, user: str, expiration: str
) -> None:
    directory.add("iother", "127.0.0.3", access_token="other")
    directory.add("inone", "127.0.0.3")
    directory.add(access_token="0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0")
    from urllib.parse import urlencode

    operation = "write" if method == "POST" else "read"
    signature = sign("a b/ü.txt", operation, user, "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0", expiration)
    query = {"path": "a b/ü.txt", "signature": signature}
    query |= {"username": user} if user else {}
    query |= {"signature_expiration": expiration} if expiration else {}
    seen: list[bytes] = []
    async with edge_for(directory) as edge, serving(answering(OK, seen=seen), port=49983):
        async with raw(edge, by_host("127.0.0.1:3002", f"/files?{urlencode(query)}", method=method)) as client:
            assert b" 200 " in await client.head()
        assert seen
        query["path"] = "other.txt"
        status, _, body = await ask(edge, by_host("127.0.0.1:3002", f"/files?{urlencode(query)}", method="GET"))
        assert (status, json.loads(body)) == (401, {"code": 401, "message": "invalid signature"})


async def test_the_api_shares_the_address(directory: MemoryDirectory) -> None:
    directory.add()
    seen: list[bytes] = []
    async with (
        serving(answering(OK, seen=seen), "127.0.0.1") as api,
        edge_for(directory, api_backend=("127.0.0.1", api)) as edge,
    ):
        for data in (by_host("api.x.dev", "/v2/sandboxes"), by_host("127.0.0.1:3000", "/health"), by_host("localhost")):
            assert (await ask(edge, data))[2] == b"ok"
        assert len(seen) == 3
        assert b"Host: api.x.dev" in seen[0]
        assert (await ask(edge, by_host("80-igone.x.dev")))[0] == 502
        assert (await ask(edge, by_host("080-iabc123.x.dev")))[0] == 400
        assert (await ask(edge, request("080")))[0] == 400
        assert len(seen) == 3
    async with edge_for(directory, api_backend=("127.0.0.1", free_port("127.0.0.1"))) as edge:
        status, _, body = await ask(edge, by_host("api.x.dev"))
        assert (status, json.loads(body)["message"]) == (502, "The API cannot be reached")
