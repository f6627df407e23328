"""Bad input and foreign hands at the API's door of a real server. Every refusal is JSON with `code`, never a 5xx."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.abuse.front import FrontBox, head, raw

from sandpit.api.app import ROUTES
from sandpit.api.routes import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.live import Live

    from sandpit.api.http.routes import ApiRoute

    Create = Callable[..., FrontBox]

# What makes a request to a route valid but for whose thing it names.
BODIES: dict[str, Any] = {
    "/sandboxes/{id:segment}/timeout": {"timeout": 10},
    "/sandboxes/{id:segment}/connect": {"timeout": 10},
    "/api-keys/{id:segment}": {"name": "stolen"},
}
# The others say 501 to everybody who has a key, whatever the request.
DOING = [route for route in ROUTES if route not in missing.ROUTES]
# Of a sandbox that is not one's own there are no lines, rather than a 404.
WITHOUT_OWNER = {"/sandboxes/{id:segment}/logs"}
HOSTILE_IDS = [
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2f..", ".", "%2e%2e", "%00", "%ff%fe", "%0d%0aX-Evil:%201", "%20", "-",
    "i'--", "i%22%3b%20drop%20table%20sandboxes", "%f0%9f%92%a9", "I" * 21, "i" * 5000, "i%2f..%2fx", "*", "null", "0",
    "%c0%ae%c0%ae", "i\u0301".encode().decode("latin-1"),
]  # fmt: skip


def name(route: ApiRoute) -> str:
    return f"{route.method} {route.path}"


def filled(route: ApiRoute, thing: str) -> str:
    return route.path.replace("{id:segment}", thing).replace("{alias:segment}", thing)


def body_of(route: ApiRoute) -> Any:
    return BODIES.get(route.path.removeprefix("/v2"), {})


def check_refusal(answer: httpx.Response, *statuses: int) -> None:
    """An error body of the API, in the class of the caller's own faults."""
    assert answer.status_code in statuses if statuses else 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == answer.status_code
    assert answer.json()["message"]


@pytest.fixture
def stranger(live: Live) -> Iterator[httpx.Client]:
    """Another team's client."""
    with httpx.Client(base_url=live.api_url, headers={"X-API-KEY": live.another_team()}, trust_env=False) as client:
        yield client


def test_no_route_opens_without_a_valid_key(live: Live, box: FrontBox) -> None:
    made = live.api.post("/api-keys", json={"name": "short-lived"}).json()
    revoked = {"X-API-KEY": made["key"]}
    with httpx.Client(base_url=live.api_url, trust_env=False) as nobody:
        assert nobody.get("/v2/sandboxes", headers=revoked).status_code == 200
        assert live.api.delete(f"/api-keys/{made['id']}").status_code == 204
        attempts = [{}, {"X-API-KEY": "e2b_" + "0" * 40}, {"X-API-KEY": box.token}, revoked]
        for route in ROUTES:
            for headers in attempts:
                answer = nobody.request(route.method, filled(route, box.id), json=body_of(route), headers=headers)
                check_refusal(answer, 401)
    assert box.alive()


def test_another_teams_sandbox_on_every_route(live: Live, box: FrontBox, stranger: httpx.Client) -> None:
    before = live.api.get(f"/sandboxes/{box.id}").json()
    for route in (route for route in ROUTES if "/sandboxes/{id" in route.path):
        for spelling in (box.id, f"{box.id}-00000000"):
            answer = stranger.request(route.method, filled(route, spelling), json=body_of(route))
            if route.path.removeprefix("/v2") in WITHOUT_OWNER:
                assert (answer.status_code, answer.json()["logs"]) == (200, []), name(route)
            else:
                check_refusal(answer, 404)
    assert stranger.get("/sandboxes/metrics", params={"sandbox_ids": box.id}).json() == {"sandboxes": {}}
    assert box.id not in stranger.get("/sandboxes").text + stranger.get("/v2/sandboxes").text
    assert live.api.get(f"/sandboxes/{box.id}").json() == before
    assert box.alive()


def test_another_teams_key_on_every_route(live: Live, stranger: httpx.Client) -> None:
    made = live.api.post("/api-keys", json={"name": "mine"}).json()
    for route in (route for route in ROUTES if "/api-keys/{id" in route.path):
        check_refusal(stranger.request(route.method, filled(route, made["id"]), json=body_of(route)), 404)
    assert next(key for key in live.api.get("/api-keys").json() if key["id"] == made["id"])["name"] == "mine"
    assert live.api.delete(f"/api-keys/{made['id']}").status_code == 204


def test_another_teams_token_opens_no_agent(live: Live, create: Create) -> None:
    one, other = create(), create()
    with other.http() as http:
        assert http.get("/files", params={"path": "/etc/hostname"}).status_code == 200
        for token in (one.token, "", live.key, other.token[:-1], other.token.swapcase()):
            headers = {"X-Access-Token": token}
            assert http.get("/files", params={"path": "/etc/hostname"}, headers=headers).status_code == 401
            assert http.post("/process.Process/List", json={}, headers=headers).status_code == 401


@pytest.mark.parametrize("route", [route for route in DOING if "{" in route.path], ids=name)
def test_ids_that_cannot_be(live: Live, route: ApiRoute) -> None:
    for hostile in HOSTILE_IDS:
        request = head(route.method, filled(route, hostile), ("X-API-KEY", live.key), ("Content-Length", "2")) + b"{}"
        status, answer = raw(live.api_url, request)
        empty = route.path.removeprefix("/v2") in WITHOUT_OWNER
        assert status in ((200, 400, 404) if empty else (400, 404, 405)), answer[:2000]
        assert b"X-Evil" not in answer.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    "template", ["nothing", "base:nothing", "base:", ":x", "/", "base/", "no-team/base", "x" * 5000]
)
def test_unknown_templates(live: Live, template: str) -> None:
    for path in ("/sandboxes", "/v2/sandboxes"):
        check_refusal(live.api.post(path, json={"templateID": template}), 400, 404)


NUMBERS = ["-1", "1.5", "1e2", '"60"', "true", "[]", "{}", "9" * 18, "9" * 400, "1e999", "-0.0", "NaN", "86401"]


@pytest.mark.parametrize("number", NUMBERS)
def test_timeouts_that_are_none(live: Live, box: FrontBox, number: str) -> None:
    before = live.api.get(f"/sandboxes/{box.id}").json()
    own = f"/sandboxes/{box.id}"
    for path, text in (
        ("/sandboxes", '{"templateID": "base", "timeout": %s}'), ("/v2/sandboxes", '{"templateID": "base", "timeout": %s}'),
        (f"{own}/connect", '{"timeout": %s}'), (f"/v2{own}/connect", '{"timeout": %s}'), (f"{own}/timeout", '{"timeout": %s}'),
        (f"{own}/refreshes", '{"duration": %s}'), (f"{own}/resume", '{"timeout": %s}'), (f"{own}/fork", '{"count": %s}'),
    ):  # fmt: skip
        check_refusal(live.api.post(path, content=text % number), 400, 409)
    for path in (f"{own}/metrics", f"{own}/logs", f"/v2{own}/logs", "/v2/sandboxes"):
        for field in ("start", "end", "cursor", "limit"):
            answer = live.api.get(path, params={field: number})
            assert answer.status_code in (200, 400), answer.text
    assert live.api.get(own).json() == before


@pytest.mark.parametrize("route", [route for route in DOING if route.method not in ("GET", "DELETE")], ids=name)
def test_bodies_that_are_none(live: Live, box: FrontBox, route: ApiRoute) -> None:
    deep = b"[" * 200_000
    objects = b'{"templateID":"base","mcp":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}"
    for content in (b"{", b"[]", b"null", b"\xff", deep, deep + b"]" * 200_000, objects, b" " * (1 << 20) + b"{}"):
        answer = live.api.request(route.method, filled(route, box.id), content=content)
        assert 400 <= answer.status_code < 500, f"{content[:50]!r}: {answer.text}"
        assert answer.json()["code"] == answer.status_code


def test_a_body_without_end_is_not_collected(live: Live) -> None:
    """The answer comes while the client still sends."""
    request = head("POST", "/v2/sandboxes", ("X-API-KEY", live.key), ("Content-Length", str(1 << 40)))
    assert raw(live.api_url, request)[0] == 413


FRAMINGS = [
    [("Content-Length", "2"), ("Content-Length", "3")], [("Content-Length", "2"), ("Transfer-Encoding", "chunked")],
    [("Transfer-Encoding", "chunked"), ("Content-Length", "2")], [("Content-Length", "+2")], [("Content-Length", "-2")],
    [("Content-Length", "0x2")], [("Content-Length", "2, 2")], [("Transfer-Encoding", "xchunked")],
    [("Transfer-Encoding", "chunked, identity")], [("Transfer-Encoding ", "chunked")],
]  # fmt: skip


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
def test_contradicting_lengths(live: Live, framing: list[tuple[str, str]]) -> None:
    """Through both ports; what follows the doubtful request must never be taken for another one."""
    second = head("GET", "/health")
    for url in (live.api_url, live.edge_url):
        request = head("POST", "/v2/sandboxes", ("X-API-KEY", live.key), *framing)
        status, answer = raw(url, request + b"0\r\n\r\n" + second)
        assert 400 <= status < 502, answer
        assert answer.count(b"HTTP/1.1 ") == 1, answer


def test_contradicting_keys_and_targets(live: Live, box: FrontBox) -> None:
    key, other = ("X-API-KEY", live.key), ("X-API-KEY", live.another_team())
    for pair in ([key, other], [other, key]):
        assert raw(live.api_url, head("GET", f"/sandboxes/{box.id}", *pair))[0] == 401
    named = [("E2b-Sandbox-Id", box.id), ("E2b-Sandbox-Port", "49983"), ("X-Access-Token", box.token)]
    request = ("GET", "/files?path=/etc/hostname")
    assert raw(live.edge_url, head(*request, *named))[0] == 200
    for extra, status in (
        (("E2b-Sandbox-Id", "i" + "0" * 20), 400), (("E2b-Sandbox-Id", box.id), 400), (("E2b-Sandbox-Port", "80"), 400),
        (("Host", f"49983-{box.id}.x.dev"), 400), (("X-Access-Token", box.token), 401), (("X-Access-Token", "x"), 401),
    ):  # fmt: skip
        for headers in ([*named, extra], [extra, *named]):
            assert raw(live.edge_url, head(*request, *headers))[0] == status, extra


def test_ids_of_killed_sandboxes(live: Live, box: FrontBox) -> None:
    box.sh("(python3 -m http.server 80 >/dev/null 2>&1 &)")
    box.kill()
    for route in (route for route in ROUTES if "/sandboxes/{id" in route.path):
        answer = live.api.request(route.method, filled(route, box.id), json=body_of(route))
        if route.path.removeprefix("/v2") in WITHOUT_OWNER:
            assert answer.status_code == 200
        else:
            check_refusal(answer, 404)
    assert box.id not in live.api.get("/sandboxes").text + live.api.get("/v2/sandboxes").text
    for port in (49983, 49999, 80):
        with box.http(port) as http:
            answer = http.get("/health")
            assert (answer.status_code, answer.json()["message"]) == (502, "The sandbox was not found")
    assert live.api.delete(f"/sandboxes/{box.id}").status_code == 404


def test_hundreds_of_refusals_leave_the_server_well(live: Live, box: FrontBox) -> None:
    """Wrong keys cost no memory that stays, and no other caller its turn."""
    with httpx.Client(base_url=live.api_url, trust_env=False) as nobody:
        for number in range(500):
            answer = nobody.get("/v2/sandboxes", headers={"X-API-KEY": f"e2b_{number:040x}"})
            assert answer.status_code == 401
    assert json.loads(live.api.get(f"/sandboxes/{box.id}").text)["state"] == "running"
