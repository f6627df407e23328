"""Into sandboxes and out of them (current-protocol 1.7 and 11.10)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import e2b
import httpx
import pytest
from tests.clients.flavours import got, until
from tests.node.outside import CLOSED, OTHER_PUBLIC, PORT, PUBLIC, Outside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clients.flavours import Create
    from tests.live import Live

    Sandbox = Any

EVERYTHING = "0.0.0.0/0"

SERVER = """
import http.server, json, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"headers": dict(self.headers), "path": self.path, "body": sent.decode()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


async def serve(sandbox: Sandbox, port: int, address: str = "0.0.0.0") -> None:
    """Start a server that tells what it was asked."""
    await got(sandbox.files.write("/home/user/server.py", SERVER))
    await got(sandbox.commands.run(f"python3 server.py {address} {port}", background=True, timeout=0))

    async def listening() -> bool:
        return bool((await got(sandbox.commands.run(f"ss -Htln sport = :{port}"))).stdout)

    await until(listening)


def visit(sandbox: Sandbox, port: int, path: str = "/", **headers: str) -> httpx.Response:
    """Ask for `http://{get_host(port)}/`; the name need not resolve here."""
    url = sandbox.envd_api_url + path
    host = {"Host": sandbox.get_host(port)}
    return httpx.get(url, headers={**host, **{k.replace("_", "-"): v for k, v in headers.items()}}, trust_env=False)


# Into the sandbox


async def test_the_host_name_is_the_servers_own(sandbox: Sandbox, live: Live) -> None:
    """It names a place of this server, not of the domain that clients assume; a client that trusts the server's authority gets there."""
    port = 8401 if isinstance(sandbox, e2b.Sandbox) else 8402
    tls = httpx.URL(live.tls_url)
    host = sandbox.get_host(port)
    assert host == f"{port}-{sandbox.sandbox_id}.e2b.localhost:{tls.port}"
    await serve(sandbox, port)
    trusting = ssl.create_default_context(cafile=str(live.data_dir / "tls/e2b.localhost/ca.pem"))
    # Where the machine's resolver knows names below localhost, `https://{host}` is all it takes.
    server_name = {"sni_hostname": host.partition(":")[0]}
    with httpx.Client(verify=trusting, trust_env=False) as client:
        answer = client.get(f"https://127.0.0.1:{tls.port}/a", headers={"Host": host}, extensions=server_name)
    assert (answer.status_code, answer.json()["path"], answer.json()["headers"]["Host"]) == (200, "/a", host)
    again = await got(type(sandbox).connect(sandbox.sandbox_id))
    assert again.get_host(port) == host
    assert (await got(again.get_info())).sandbox_domain == host.partition(".")[2]


async def test_servers_on_all_addresses(sandbox: Sandbox) -> None:
    base = 8100 if isinstance(sandbox, e2b.Sandbox) else 8200
    for port, address in enumerate(("0.0.0.0", "::", "127.0.0.1", "localhost", "::1"), base):
        await serve(sandbox, port, address)
        answer = visit(sandbox, port, "/some%2Fpath?a=b")
        assert (answer.status_code, answer.json()["path"]) == (200, "/some%2Fpath?a=b"), address
        assert answer.json()["headers"]["Host"] == sandbox.get_host(port)


async def test_pythons_own_server(sandbox: Sandbox) -> None:
    port = 8301 if isinstance(sandbox, e2b.Sandbox) else 8302
    await got(sandbox.commands.run(f"cd /etc && python -m http.server {port}", background=True, timeout=0))

    async def answers() -> bool:
        return visit(sandbox, port, "/hostname").status_code == 200

    await until(answers)
    assert visit(sandbox, port, "/hostname").text == f"{sandbox.sandbox_id}\n"


async def test_closed_ports(sandbox: Sandbox) -> None:
    answer = visit(sandbox, 8999)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 8999,
        "code": 502,
    }
    page = visit(sandbox, 8999, User_Agent="Mozilla/5.0 (X11; Linux x86_64)")
    assert page.status_code == 502
    assert page.headers["content-type"].startswith("text/html")
    assert "no service running on port" in page.text
    assert "8999" in page.text


async def test_sandboxes_that_are_gone(create: Create) -> None:
    sandbox = await create()
    await got(sandbox.kill())
    answer = visit(sandbox, 8000)
    assert answer.status_code == 502
    assert answer.json() == {"sandboxId": sandbox.sandbox_id, "message": "The sandbox was not found", "code": 502}
    page = visit(sandbox, 8000, User_Agent="Mozilla/5.0 (X11; Linux x86_64)")
    assert "Sandbox Not Found" in page.text
    assert sandbox.sandbox_id in page.text


def test_routes_that_are_none(shared: e2b.Sandbox) -> None:
    url = shared.envd_api_url
    for headers, status in (
        ({"E2b-Sandbox-Id": shared.sandbox_id}, 400),
        ({"E2b-Sandbox-Port": "49983"}, 400),
        ({"Host": "8000-under_score.e2b.app"}, 400),
        ({"Host": "nodash.e2b.app"}, 404),  # names no sandbox: the API answers
        ({"Host": f"08000-{shared.sandbox_id}.e2b.app"}, 400),
        ({"Host": f"65536-{shared.sandbox_id}.e2b.app"}, 400),
    ):
        answer = httpx.get(url, headers=headers, trust_env=False)
        assert answer.status_code == status, headers
        assert answer.json()["code"] == status
        assert answer.json()["message"]


def test_the_agents_control_calls(shared: e2b.Sandbox) -> None:
    url = shared.envd_api_url
    named = {"E2b-Sandbox-Id": shared.sandbox_id, "E2b-Sandbox-Port": "49983"}
    token = {"X-Access-Token": str(shared._envd_access_token)}
    for path in ("/init", "//init", "/%69nit", "/./init", "/freeze", "/journal", "/upgrade"):
        answer = httpx.post(url + path, headers={**named, **token}, json={}, trust_env=False)
        assert answer.status_code == 404, path
        assert visit(shared, 49983, path, **token).status_code == 404, path


async def test_public_traffic_off(create: Create) -> None:
    sandbox = await create(network={"allow_public_traffic": False})
    assert sandbox.traffic_access_token
    await serve(sandbox, 8000)
    missing = visit(sandbox, 8000)
    assert missing.status_code == 403
    assert missing.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing",
        "code": 403,
    }
    wrong = visit(sandbox, 8000, e2b_traffic_access_token="wrong")
    assert wrong.status_code == 403
    assert "invalid" in wrong.json()["message"]
    right = visit(sandbox, 8000, e2b_traffic_access_token=sandbox.traffic_access_token)
    assert right.status_code == 200
    assert "Missing Traffic Access Token" in visit(sandbox, 8000, User_Agent="Mozilla/5.0").text
    assert visit(sandbox, 49983, "/health").status_code == 204


async def test_public_traffic_on(create: Create) -> None:
    for network in (None, {"allow_public_traffic": True}):
        sandbox = await create(network=network)
        assert sandbox.traffic_access_token is None
        await serve(sandbox, 8000)
        assert visit(sandbox, 8000).status_code == 200


async def test_the_access_token_stays_out_of_the_sandbox(sandbox: Sandbox) -> None:
    """What the client sends to a user's port is the user's; what it must not know is not added."""
    port = 8311 if isinstance(sandbox, e2b.Sandbox) else 8312
    await serve(sandbox, port)
    seen = visit(sandbox, port, X_Own="kept").json()["headers"]
    assert seen["X-Own"] == "kept"
    assert sandbox._envd_access_token not in str(seen)


async def test_masked_host(create: Create) -> None:
    sandbox = await create(network={"mask_request_host": "custom-host.example.com:${PORT}"})
    await serve(sandbox, 8080)
    assert visit(sandbox, 8080).json()["headers"]["Host"] == "custom-host.example.com:8080"
    with pytest.raises(e2b.SandboxException) as raised:
        await create(network={"mask_request_host": "http://not a host/"})
    assert raised.value.status_code == 400


# Out of the sandbox


@pytest.fixture(scope="module")
def outside(clients: dict[str, str]) -> Iterator[Outside]:
    """A machine elsewhere."""
    with Outside() as outside:
        yield outside


async def reaches(sandbox: Sandbox, *hosts: str) -> list[bool]:
    """Which of the machine's addresses answer."""
    found = []
    for host in hosts:
        command = f"curl -s -o /dev/null -m 2 --noproxy '*' http://{host}:{PORT}/ && echo yes || true"
        found.append((await got(sandbox.commands.run(command))).stdout == "yes\n")
    return found


async def test_internet_access(create: Create, outside: Outside) -> None:
    assert await reaches(await create(), PUBLIC, CLOSED[0]) == [True, False]
    assert await reaches(await create(allow_internet_access=True), PUBLIC) == [True]
    closed = await create(allow_internet_access=False)
    assert await reaches(closed, PUBLIC) == [False]
    assert (await got(closed.get_info())).allow_internet_access is False


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"allow_out": [PUBLIC], "deny_out": [EVERYTHING]}, [True, False]),
        ({"allow_out": ["203.0.113.0/24"], "deny_out": lambda ctx: [ctx.all_traffic]}, [True, False]),
        ({"deny_out": [OTHER_PUBLIC]}, [True, False]),
        ({"deny_out": [EVERYTHING]}, [False, False]),
        ({"allow_out": [OTHER_PUBLIC], "deny_out": [OTHER_PUBLIC]}, [True, True]),
        ({"allow_out": [PUBLIC]}, [True, True]),
    ],
    ids=["allow", "allow-cidr", "deny", "deny-all", "allow-wins", "allow-alone"],
)
async def test_rules(create: Create, outside: Outside, network: dict[str, Any], expected: list[bool]) -> None:
    assert await reaches(await create(network=network), PUBLIC, OTHER_PUBLIC) == expected


async def test_rules_change_while_it_runs(create: Create, outside: Outside) -> None:
    sandbox = await create()
    assert await reaches(sandbox, PUBLIC) == [True]
    await got(sandbox.update_network({"deny_out": [PUBLIC]}))
    assert await reaches(sandbox, PUBLIC, OTHER_PUBLIC) == [False, True]
    assert (await got(sandbox.get_info())).network["deny_out"] == [PUBLIC]
    await got(sandbox.update_network({"allow_internet_access": False}))
    assert await reaches(sandbox, PUBLIC, OTHER_PUBLIC) == [False, False]
    await got(sandbox.update_network({}))
    assert await reaches(sandbox, PUBLIC, OTHER_PUBLIC) == [True, True]


async def test_bad_rules(create: Create) -> None:
    for network in (
        {"deny_out": ["example.com"]},
        {"allow_out": ["example.com"]},  # needs deny-all
        {"allow_out": ["999.1.1.1"], "deny_out": [EVERYTHING]},
        {"allow_out": ["https://example.com/"], "deny_out": [EVERYTHING]},
    ):
        with pytest.raises(e2b.SandboxException) as raised:
            await create(network=network)
        assert raised.value.status_code == 400, network
    sandbox = await create(network={"allow_out": ["Example.com", "*.example.com"], "deny_out": [EVERYTHING]})
    with pytest.raises(e2b.SandboxException) as raised:
        await got(sandbox.update_network({"deny_out": ["example.com"]}))
    assert raised.value.status_code == 400
