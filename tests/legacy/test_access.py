"""Who may use a sandbox's doors of 2024, and when there are any (docs/legacy.md, Who may)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.live import Live

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def create(live: Live) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes sandboxes that end with the test."""
    made: list[str] = []

    def make(version: str, **body: Any) -> dict[str, Any]:
        answer = live.api.post(f"{version}/sandboxes", json={"timeout": 300, **body})
        assert answer.status_code == 201, answer.text
        sandbox: dict[str, Any] = answer.json()
        made.append(sandbox["sandboxID"])
        return sandbox

    yield make
    for sandbox_id in made:
        live.api.delete(f"/sandboxes/{sandbox_id}")


def headers(sandbox: dict[str, Any], port: int, **more: str) -> dict[str, str]:
    return {"E2b-Sandbox-Id": sandbox["sandboxID"], "E2b-Sandbox-Port": str(port), **more}


def call(live: Live, sandbox: dict[str, Any], method: str, *params: Any, **more: str) -> Any:
    url = live.edge_url.replace("http", "ws")
    with connect(f"{url}/ws", additional_headers=headers(sandbox, 49982, **more), open_timeout=60) as socket:
        socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return json.loads(socket.recv(60))["result"]


def test_a_secured_sandbox_demands_its_token(live: Live, create: Callable[..., dict[str, Any]]) -> None:
    sandbox = create("/v2", templateID="base")
    for more in ({}, {"X-Access-Token": "wrong"}):
        with pytest.raises(InvalidStatus) as refused:
            call(live, sandbox, "filesystem_list", "/", **more)
        assert refused.value.response.status_code == 401
        answer = httpx.get(f"{live.edge_url}/file?path=/etc/passwd", headers=headers(sandbox, 49982, **more))
        assert answer.status_code == 401
    names = [
        item["name"]
        for item in call(live, sandbox, "filesystem_list", "/", **{"X-Access-Token": sandbox["envdAccessToken"]})
    ]
    assert "home" in names


def test_control_calls_are_not_there(live: Live, create: Callable[..., dict[str, Any]]) -> None:
    sandbox = create("", templateID="base")
    for path in ("/init", "/freeze", "/disk", "/%69nit"):
        assert httpx.post(f"{live.edge_url}{path}", headers=headers(sandbox, 49982)).status_code == 404


def test_the_jupyter_port_opens_with_the_first_client_of_2024(
    live: Live, create: Callable[..., dict[str, Any]]
) -> None:
    """Who has a server of his own for that port can start it in all other sandboxes."""
    sandbox = create("", templateID="code-interpreter-stateful")
    assert httpx.get(f"{live.edge_url}/api", headers=headers(sandbox, 8888)).status_code == 502
    kernel = call(live, sandbox, "filesystem_read", "/root/.jupyter/kernel_id").strip()
    kernels = httpx.get(f"{live.edge_url}/api/kernels", headers=headers(sandbox, 8888)).json()
    assert [item["id"] for item in kernels] == [kernel]


def test_a_dead_sandbox_refuses_at_once(live: Live, create: Callable[..., dict[str, Any]]) -> None:
    sandbox = create("", templateID="base")
    live.api.delete(f"/sandboxes/{sandbox['sandboxID']}")
    with pytest.raises(InvalidStatus) as refused:
        call(live, sandbox, "filesystem_list", "/")
    assert refused.value.response.status_code == 502
    answer = live.api.post(f"/sandboxes/{sandbox['sandboxID']}/refreshes", json={"duration": 0})
    assert (answer.status_code, answer.json()["code"]) == (404, 404)
