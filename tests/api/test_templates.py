"""Templates as the API shows them (current-protocol 3.12, 10.4; code-interpreter 3.8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.api.memory_node import BASE, INTERPRETER

if TYPE_CHECKING:
    import httpx

    from sandpit.control.app import ControlPlane


async def test_list_and_get(client: httpx.AsyncClient) -> None:
    listed = {item["templateID"]: item for item in (await client.get("/templates")).json()}
    assert set(listed) == {BASE.template_id, INTERPRETER.template_id}
    base = listed[BASE.template_id]
    del base["createdAt"], base["updatedAt"], base["envdVersion"]
    assert base == {
        "templateID": BASE.template_id,
        "buildID": BASE.build_id,
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 1024,
        "public": True,
        "aliases": ["base"],
        "names": ["base"],
        "createdBy": None,
        "lastSpawnedAt": None,
        "spawnCount": 0,
        "buildCount": 0,
        "buildStatus": "ready",
        "isDefault": True,
    }
    one = (await client.get("/templates/base")).json()
    assert [build["buildID"] for build in one["builds"]] == [BASE.build_id]
    assert (await client.get("/templates/nothing")).status_code == 404
    assert (await client.get("/templates/%2F")).status_code == 400


async def test_pages(client: httpx.AsyncClient) -> None:
    seen, token = [], ""
    for _ in range(2):
        response = await client.get(f"/v2/templates?limit=1&nextToken={token}")
        seen += [item["templateID"] for item in response.json()]
        token = response.headers.get("x-next-token", "")
    assert token == ""
    assert sorted(seen) == [BASE.template_id, INTERPRETER.template_id]
    for bad in ("limit=0", "limit=101", "nextToken=x", "teamID=other"):
        assert (await client.get(f"/v2/templates?{bad}")).status_code == 400


async def test_alias(client: httpx.AsyncClient) -> None:
    assert (await client.get("/templates/aliases/base")).json() == {"templateID": BASE.template_id, "public": True}
    assert (await client.get("/templates/aliases/nothing")).status_code == 404


async def test_a_team_counts_its_sandboxes(control: ControlPlane, client: httpx.AsyncClient) -> None:
    identity = await control.services.keys.authenticate(str(control.first_key))
    own = replace(BASE, template_id="own00000000000000000", build_id="44444444-4444-4444-8444-444444444444")
    await control.services.templates.register([own], team_id=identity.team_id, namespace=identity.slug)
    # The team's own template of a name comes before the platform's; its image is not on the node.
    assert (await client.post("/v2/sandboxes", json={"templateID": "base"})).status_code == 404
    control.services.templates.spawned(own.template_id)
    await control.services.templates.flush_spawned()
    shown = (await client.get("/templates/own00000000000000000")).json()
    assert (shown["spawnCount"], shown["names"], shown["public"]) == (1, ["default/base"], False)


async def test_registering_again_keeps_tags(control: ControlPlane) -> None:
    templates = control.services.templates
    identity = await control.services.keys.authenticate(str(control.first_key))
    newer = replace(BASE, build_id="55555555-5555-4555-8555-555555555555", memory_mb=2048)
    await templates.register([newer])
    assert (await templates.resolve(identity, "base")).build.id == newer.build_id
    await templates.register([BASE])
    assert (await templates.resolve(identity, "base")).build.id == newer.build_id
    tagged = replace(BASE, build_id="66666666-6666-4666-8666-666666666666", names=("base:v2",))
    await templates.register([tagged])
    assert (await templates.resolve(identity, "base:v2")).build.id == tagged.build_id
    assert (await templates.resolve(identity, "base")).build.id == newer.build_id
