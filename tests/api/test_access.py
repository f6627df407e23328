"""Who may do what: walks the whole route table, so that a new route is covered the day it is born."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from tests.api.conftest import api_client
from tests.api.memory_node import MemoryNode

from sandpit.api.app import ROUTES
from sandpit.control.app import ControlPlane
from sandpit.store.models import Team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

    from sandpit.api.http.routes import ApiRoute
    from sandpit.server.settings import Settings

BODIES = {
    "/sandboxes/{id:segment}/timeout": {"timeout": 10},
    "/sandboxes/{id:segment}/connect": {"timeout": 10},
    "/api-keys/{id:segment}": {"name": "stolen"},
    "/templates/{id:segment}": {"public": True},
}
# Answers about the caller's own things when asked for others': an empty list instead of 404.
EMPTY = {"/sandboxes/{id:segment}/logs", "/v2/sandboxes/{id:segment}/logs"}


def name(route: ApiRoute) -> str:
    return f"{route.method} {route.path}"


def test_the_table_has_no_doubles() -> None:
    assert len({name(route) for route in ROUTES}) == len(ROUTES) > 25


async def test_no_route_without_a_valid_key(control: ControlPlane) -> None:
    key = control.first_key
    assert key is not None
    attempts: list[dict[str, str]] = [
        {},
        {"X-API-KEY": ""},
        {"X-API-KEY": "e2b_" + "0" * 40},
        {"X-API-KEY": key[:-1]},
        {"X-API-KEY": key.upper()},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": "Bearer sk_e2b_" + "0" * 40},
        {"Authorization": "Basic sk_e2b_" + "0" * 40},
    ]
    double = [("X-API-KEY", key), ("X-API-KEY", "e2b_" + "0" * 40)]
    async with api_client(control, None) as nobody:
        for route in ROUTES:
            path = route.path.replace("{id:segment}", "base").replace("{alias:segment}", "base")
            answers = [await nobody.request(route.method, path, headers=headers) for headers in attempts]
            answers.append(await nobody.request(route.method, path, headers=double))
            assert [answer.status_code for answer in answers] == [401] * len(answers), name(route)
            assert all(answer.json()["code"] == 401 for answer in answers)


@pytest.mark.parametrize("route", [route for route in ROUTES if "{id" in route.path], ids=name)
async def test_another_teams_things(
    control: ControlPlane, client: httpx.AsyncClient, stranger: httpx.AsyncClient, node: MemoryNode, route: ApiRoute
) -> None:
    if "templates" in route.path:
        async with control.database.write() as session:
            team = await session.get(Team, (await control.services.keys.authenticate(str(control.first_key))).team_id)
        assert team is not None
        image = MemoryNode().images[0]
        own = type(image)("own00000000000000000", "33333333-3333-4333-8333-333333333333", ("own",), 1, 128, 1, "memory")
        await control.services.templates.register([own], team_id=team.id, namespace=team.slug)
        thing = own.template_id
    elif "api-keys" in route.path:
        thing = (await client.get("/api-keys")).json()[0]["id"]
    else:
        thing = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    path = route.path.replace("{id:segment}", thing).replace("{hash:segment}", "0" * 64)
    path = path.replace("{build:segment}", "33333333-3333-4333-8333-333333333333")
    response = await stranger.request(route.method, path, json=BODIES.get(route.path.removeprefix("/v2"), {}))
    if route.path in EMPTY:
        assert not response.json()["logs"]
    else:
        expected = 403 if route.method == "PATCH" and "templates" in route.path else 404  # current-protocol C139
        assert (response.status_code, response.json()["code"]) == (expected, expected)
    assert (await client.get("/api-keys")).json()[0]["name"] == "first key"
    assert "sandboxes" not in route.path or thing in node.machine


async def registered(control: ControlPlane, *, public: bool = False) -> Any:
    """A template `quartz` of the first team."""
    identity = await control.services.keys.authenticate(str(control.first_key))
    image = MemoryNode().images[0]
    own = type(image)("own00000000000000000", "33333333-3333-4333-8333-333333333333", ("quartz",), 1, 128, 1, "memory")
    await control.services.templates.register([own], team_id=identity.team_id, namespace=identity.slug)
    if public:
        await control.services.templates.set_public(identity, "quartz", public=True)
    return own


async def test_an_alias_is_its_teams(
    control: ControlPlane, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    own = await registered(control)
    assert (await client.get("/templates/aliases/quartz")).json() == {"templateID": own.template_id, "public": False}
    assert (await client.get("/templates/aliases/default%2Fquartz")).status_code == 200
    assert own.template_id not in (await stranger.get("/templates")).text
    await control.services.templates.set_public(
        await control.services.keys.authenticate(str(control.first_key)), "quartz", public=True
    )
    assert (await stranger.get("/templates/aliases/default%2Fquartz")).json()["public"] is True
    assert (await stranger.patch("/templates/default%2Fquartz", json={"public": False})).status_code == 403


NAMING: dict[str, list[dict[str, Any]]] = {
    "POST /sandboxes": [{"templateID": "NAME"}],
    "POST /v2/sandboxes": [{"templateID": "NAME"}, {"templateID": "NAME", "mcp": {}}],
    "POST /v2/templates": [{"name": "NAME"}, {"alias": "NAME"}],
    "POST /v3/templates": [{"name": "NAME"}],
    "POST /templates/tags": [{"target": "NAME", "tags": ["x"]}],
    "DELETE /templates/tags": [{"name": "NAME", "tags": ["x"]}],
    "POST /sandboxes/{id:segment}/snapshots": [{"name": "NAME"}],
    "PATCH /templates/{id:segment}": [{"public": True}],
    "PATCH /v2/templates/{id:segment}": [{"public": True}],
    "POST /v2/templates/{id:segment}/builds/{build:segment}": [{"fromImage": "x"}],
}
"""Bodies that hold a template's name."""


def requests_naming(route: ApiRoute) -> Iterator[tuple[str, Any]]:
    """Paths with a query, and bodies, with NAME wherever the route takes a template's name."""
    about_templates = "/templates" in route.path or "/snapshots" in route.path
    path = route.path
    if about_templates:
        path = path.replace("{alias:segment}", "NAME")
        path = path.replace("{id:segment}", "NAME") if "/sandboxes" not in path else path
    path = path.replace("{build:segment}", "33333333-3333-4333-8333-333333333333").replace("{hash:segment}", "0" * 64)
    names = [param.name for param in route.query if param.name in ("template", "name")]
    for query in ["", *(f"?{name}=NAME" for name in names)]:
        for body in NAMING.get(name(route), [{}]):
            if "NAME" in f"{path}{query}{body}":
                yield path + query, body


async def test_another_teams_alias_is_like_none(control: ControlPlane, stranger: httpx.AsyncClient) -> None:
    """Byte by byte, on every route that takes a template's name."""
    await registered(control)
    sandbox_id = (await stranger.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    tried = 0
    for route in ROUTES:
        for path, body in requests_naming(route):
            for theirs, none in (
                ("default/quartz", "default/zircon"), ("default/quartz:default", "default/zircon:default"),
                ("quartz", "zircon"), ("quartz:x", "zircon:x"),
            ):  # fmt: skip
                makes = route.method == "POST" and route.path.endswith(("templates", "snapshots"))
                if makes and "default" not in theirs:
                    continue  # a name that the caller may give a template of its own
                answers = []
                for text in (theirs, none):
                    url = path.replace("NAME", quote(text, safe="")).replace("{id:segment}", sandbox_id)
                    content = json.dumps(body).replace("NAME", text)
                    answer = await stranger.request(route.method, url, content=content)
                    answers.append((answer.status_code, answer.text.replace("quartz", "zircon")))
                assert answers[0] == answers[1], f"{name(route)} {path} {body} {theirs}"
                tried += 1
    assert tried > 60
    unknown = await stranger.get("/templates/aliases/default%2Fquartz")
    assert (unknown.status_code, unknown.json()["code"]) == (404, 404)


async def test_health_needs_no_key(control: ControlPlane) -> None:
    async with api_client(control, None) as nobody:
        assert (await nobody.get("/health")).status_code == 200


async def test_the_description_needs_no_key(control: ControlPlane) -> None:
    async with api_client(control, None) as nobody:
        answer = await nobody.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert "/v2/sandboxes" in answer.json()["paths"]


async def test_revoked_key_is_refused_at_once(control: ControlPlane, client: httpx.AsyncClient) -> None:
    made = (await client.post("/api-keys", json={"name": " second "})).json()
    assert made["name"] == "second"
    async with api_client(control, made["key"]) as second:
        assert (await second.get("/v2/sandboxes")).status_code == 200
        assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 204
        assert (await second.get("/v2/sandboxes")).status_code == 401
    assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 404


async def test_keys_are_shown_masked(control: ControlPlane, client: httpx.AsyncClient) -> None:
    made = (await client.post("/api-keys", json={"name": "k"})).json()
    shown = (await client.get("/api-keys")).json()[-1]
    raw = made.pop("key")
    assert shown == made
    assert raw not in (await client.get("/api-keys")).text
    mask = shown["mask"]
    assert raw == f"{mask['prefix']}{raw[4:]}"
    assert mask["valueLength"] == len(raw) - len(mask["prefix"])
    assert raw[4:].startswith(mask["maskedValuePrefix"])
    assert raw.endswith(mask["maskedValueSuffix"])
    renamed = await client.patch(f"/api-keys/{made['id']}", json={"name": "new"})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "new")
    for bad in ({}, {"name": ""}, {"name": "x" * 201}, {"name": "a\0b"}, {"name": 5}):
        assert (await client.post("/api-keys", json=bad)).status_code == 400


async def test_access_tokens_and_teams(control: ControlPlane, client: httpx.AsyncClient) -> None:
    team = (await client.get("/teams")).json()
    assert team == [{"teamID": team[0]["teamID"], "name": "Default", "apiKey": control.first_key, "isDefault": True}]
    user = await control.services.teams.create_user("a@example.com", team[0]["teamID"])
    token, raw = await control.services.keys.create_token(user.id, "login")
    async with api_client(control, None) as person:
        person.headers["Authorization"] = f"Bearer {raw}"
        listed = (await person.get("/teams")).json()
        assert [(item["teamID"], item["isDefault"]) for item in listed] == [(team[0]["teamID"], True)]
        async with api_client(control, listed[0]["apiKey"]) as keyed:
            assert (await keyed.get("/v2/sandboxes")).status_code == 200
        assert (await person.get("/templates")).status_code == 200
        assert (await person.get(f"/templates?teamID={team[0]['teamID']}")).status_code == 200
        assert (await person.get("/templates?teamID=other")).status_code == 400
        await control.services.keys.revoke_token(user.id, token.id)
        assert (await person.get("/teams")).status_code == 401


async def test_banned_and_blocked_teams(settings: Settings) -> None:
    async with ControlPlane(settings, MemoryNode()) as control:
        identity = await control.services.keys.authenticate(str(control.first_key))
        key = control.first_key
        async with api_client(control, key) as client:
            made = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()
        async with control.database.write() as session:
            team = await session.get_one(Team, identity.team_id)
            team.blocked_reason = "unpaid"
        control.services.keys.forget_all()
        async with api_client(control, key) as client:
            response = await client.post("/v2/sandboxes", json={"templateID": "base"})
            assert (response.status_code, response.json()["message"]) == (403, "team is blocked: unpaid")
            assert (await client.get(f"/sandboxes/{made['sandboxID']}")).status_code == 200
        async with control.database.write() as session:
            (await session.get_one(Team, identity.team_id)).banned = True
        control.services.keys.forget_all()
        async with api_client(control, key) as client:
            response = await client.get(f"/sandboxes/{made['sandboxID']}")
            assert (response.status_code, response.json()["message"]) == (403, "team is banned")


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A server that asks for no key, as programs of this machine call it."""
    settings = settings.model_copy(update={"authentication": False})
    async with ControlPlane(settings, MemoryNode()) as control, api_client(control, None) as anybody:
        anybody.base_url = "http://127.0.0.1:3000"
        yield anybody


async def test_without_authentication(settings: Settings) -> None:
    async with open_server(settings) as anybody:
        made = await anybody.post("/v2/sandboxes", json={"templateID": "base"})
        assert made.status_code == 201
        assert (await anybody.get("/teams")).status_code == 200


OURS = (
    "127.0.0.1",
    "127.0.0.1:3000",
    "localhost:3000",
    "[::1]:3000",
    "LOCALHOST",
    "api.e2b.localhost:3443",
    "127.9.9.9",
    "localhost.",
)
NOT_OURS = (
    "evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example", "evillocalhost", "192.168.1.5:3000",
    "10.0.0.1", "[2001:db8::1]:3000", "", "a b", "127.0.0.1:3000:1", "0x7f000001", "2130706433", "user@localhost", "[::1",
)  # fmt: skip
PAGES = (
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:3000"}, {"Origin": "http://localhost:3000"},
    {"Origin": "http://3000-i1.e2b.localhost:3002"}, {"Origin": ""}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": ""}, {"Sec-Fetch-Site": "none, cross-site"},
)  # fmt: skip


async def test_without_authentication_no_web_page_is_served(settings: Settings) -> None:
    """On any route: neither one from elsewhere, nor a sandbox's, nor one whose name points here."""
    async with open_server(settings) as anybody:
        for host in OURS:
            assert (await anybody.get("/v2/sandboxes", headers={"Host": host})).status_code == 200, host
        refused: list[dict[str, str]] = [*({"Host": host} for host in NOT_OURS), *PAGES]
        # A user who types the address, and Node's fetch, are no pages.
        for fine in ({"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Mode": "cors"}):
            assert (await anybody.get("/v2/sandboxes", headers=fine)).status_code == 200, fine
        for headers in refused:
            for method, path in (
                ("GET", "/v2/sandboxes"),
                ("POST", "/v2/sandboxes"),
                ("GET", "/health"),
                ("GET", "/nothing"),
            ):
                answer = await anybody.request(method, path, headers=headers, json={"templateID": "base"})
                assert (answer.status_code, answer.json()["code"]) == (403, 403), (method, path, headers)
                assert not any(name.startswith("access-control") for name in answer.headers)
        assert (await anybody.get("/v2/sandboxes")).json() == []


async def test_without_authentication_preflights_fail(settings: Settings) -> None:
    async with open_server(settings) as anybody:
        for route in ROUTES:
            ask = {"Origin": "https://evil.example", "Access-Control-Request-Method": route.method}
            answer = await anybody.options(route.path.replace("{", "").replace("}", ""), headers=ask)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
