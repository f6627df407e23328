"""Template builds through the API's doors, on a node that builds at once (current-protocol 10)."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from tests.api.conftest import api_client

from sandpit.control.app import ControlPlane
from sandpit.control.templates import buildrecords
from sandpit.control.templates.builds import LOST
from sandpit.store.models import Build

if TYPE_CHECKING:
    import httpx
    from tests.api.memory_node import MemoryNode

    from sandpit.server.settings import Settings

FILES = "a" * 64


async def request(client: httpx.AsyncClient, name: str = "mine", **more: Any) -> dict[str, Any]:
    answer = await client.post("/v3/templates", json={"name": name, **more})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def start(client: httpx.AsyncClient, made: dict[str, Any], **body: Any) -> httpx.Response:
    body = {"fromTemplate": "base", "steps": [], "force": False, **body}
    return await client.post(f"/v2/templates/{made['templateID']}/builds/{made['buildID']}", json=body)


async def status(client: httpx.AsyncClient, made: dict[str, Any], **params: Any) -> dict[str, Any]:
    path = f"/templates/{made['templateID']}/builds/{made['buildID']}/status"
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ended(client: httpx.AsyncClient, made: dict[str, Any]) -> dict[str, Any]:
    while (found := await status(client, made))["status"] in ("building", "waiting"):
        await asyncio.sleep(0.01)
    return found


async def build(client: httpx.AsyncClient, name: str = "mine", **body: Any) -> dict[str, Any]:
    made = await request(client, name)
    assert (await start(client, made, **body)).status_code == 202
    assert (await ended(client, made))["status"] == "ready"
    return made


async def test_from_request_to_ready(client: httpx.AsyncClient, node: MemoryNode) -> None:
    node.hold_build = asyncio.Event()
    made = await request(client, "Mine:v1", tags=["latest"], cpuCount=4, memoryMB=2048)
    assert (made["names"], made["tags"], made["aliases"], made["public"]) == (
        ["default/mine"],
        ["v1", "latest"],
        ["mine"],
        False,
    )
    assert (await status(client, made))["status"] == "waiting"
    assert (await client.get("/templates/aliases/mine")).json()["templateID"] == made["templateID"]
    assert (await client.post("/v2/sandboxes", json={"templateID": "mine:v1"})).status_code == 404
    steps = [
        {"type": "RUN", "args": ["true"], "force": False},
        {"type": "COPY", "args": ["a", "b", "", ""], "filesHash": FILES},
    ]
    assert (await start(client, made, steps=steps, startCmd="run", readyCmd="look")).status_code == 202
    building = await status(client, made)
    assert (building["status"], building["logs"]) == ("building", ["building mine"])
    again = await start(client, made)
    assert (again.status_code, again.json()["message"]) == (400, "build is not in waiting state")
    node.hold_build.set()
    done = await ended(client, made)
    assert (done["status"], done["templateID"], done["buildID"]) == ("ready", made["templateID"], made["buildID"])
    assert "reason" not in done
    [spec] = node.built
    assert (spec.cpu_count, spec.memory_mb, spec.start_cmd, spec.ready_cmd) == (4, 2048, "run", "look")
    assert [step.kind for step in spec.steps] == ["RUN", "COPY"]
    shown = (await client.get("/templates/mine")).json()
    assert (shown["cpuCount"], shown["memoryMB"], shown["buildStatus"], shown["buildCount"]) == (4, 2048, "ready", 1)


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ({"cpuCount": 0}, "CPU count must be at least 1"),
        ({"cpuCount": 3}, "CPU count must be 1 or an even number"),
        ({"cpuCount": 1024}, "CPU count must be at most 8"),
        ({"memoryMB": 32}, "Memory must be at least 128 MiB"),
        ({"memoryMB": 1001}, "Memory must be divisible by 2"),
        ({"memoryMB": 1 << 20}, "Memory must be at most 8192 MiB"),
        ({"name": "no name!"}, "is no template"),
        ({"name": ""}, "needs a name"),
        ({"tags": ["no tag!"]}, "is no tag"),
        ({"tags": ["00000000-0000-4000-8000-000000000000"]}, "is no tag"),
    ],
)  # fmt: skip
async def test_what_cannot_be_requested(client: httpx.AsyncClient, size: dict[str, Any], why: str) -> None:
    answer = await client.post("/v3/templates", json={"name": "mine", **size})
    assert answer.status_code == 400
    assert why in answer.json()["message"]
    assert (await client.get("/templates/aliases/mine")).status_code == 404, "nothing is left of it"


async def test_another_teams_names(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    assert (await client.post("/v3/templates", json={"name": "elsewhere/mine"})).status_code == 403
    made = await build(client, "mine")
    theirs = await build(stranger, "mine")
    assert theirs["templateID"] != made["templateID"]
    assert (await stranger.post("/v2/sandboxes", json={"templateID": made["templateID"]})).status_code == 404
    assert (await start(stranger, await request(stranger, "based"), fromTemplate=made["templateID"])).status_code == 404
    assert (await client.patch("/v2/templates/mine", json={"public": True})).json() == {"names": ["default/mine"]}
    assert (await stranger.post("/v2/sandboxes", json={"templateID": "default/mine"})).status_code == 201
    assert (await stranger.delete(f"/templates/{made['templateID']}")).status_code == 404
    assert (await client.patch("/templates/mine", json={"public": False})).status_code == 200
    assert (await stranger.post("/v2/sandboxes", json={"templateID": "default/mine"})).status_code == 404
    assert (await client.patch("/templates/nothing", json={"public": True})).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"fromTemplate": None}, {"fromImage": "ubuntu"}, {"fromTemplate": "base:nothing"},
        {"steps": [{"type": "COPY", "args": ["a", "b"], "filesHash": "../../etc"}]},
        {"steps": [{"type": "RUN", "args": [1]}]}, {"startCmd": "a\0b"}, {"steps": [{"type": "RUN", "args": []}] * 1001},
        {"fromTemplate": None, "fromImage": "x", "fromImageRegistry": {"type": "aws"}},
        {"fromTemplate": None, "fromImage": "x", "fromImageRegistry": {"type": "gcp", "serviceAccountJson": "no json"}},
    ],
)  # fmt: skip
async def test_what_cannot_be_started(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    made = await request(client)
    assert (await start(client, made, **body)).status_code in (400, 404)
    assert (await status(client, made))["status"] == "waiting", "it can be started still"


async def test_credentials_reach_the_node_alone(
    client: httpx.AsyncClient, node: MemoryNode, settings: Settings
) -> None:
    login = {"type": "registry", "username": "me", "password": "the secret word"}
    await build(client, fromTemplate=None, fromImage="x.example/y", fromImageRegistry=login)
    assert node.built[0].registry.password == "the secret word"
    assert "the secret word" not in repr(node.built[0])
    for path in settings.data_dir.rglob("*"):
        assert not path.is_file() or b"the secret word" not in path.read_bytes()


async def test_names_of_images_that_are_templates_here(client: httpx.AsyncClient, node: MemoryNode) -> None:
    for image in ("e2bdev/base", "docker.io/e2bdev/base:latest", "e2bdev/code-interpreter:latest"):
        await build(client, fromTemplate=None, fromImage=image)
        assert node.built[-1].base_build_id is not None
    await build(client, fromTemplate=None, fromImage="someone/base")
    assert node.built[-1].image == "someone/base"


async def test_a_failed_build(client: httpx.AsyncClient, node: MemoryNode) -> None:
    await build(client)
    made = await request(client)
    assert (await start(client, made, steps=[{"type": "RUN", "args": ["false"]}])).status_code == 202
    failed = await ended(client, made)
    assert (failed["status"], failed["reason"]["message"], failed["reason"]["step"]) == ("error", "exit status 1", "1")
    assert [entry["message"] for entry in failed["reason"]["logEntries"]] == ["exit status 1"]
    assert (await client.post("/v2/sandboxes", json={"templateID": "mine"})).status_code == 201, "the one before stays"


async def test_logs_in_parts(client: httpx.AsyncClient) -> None:
    made = await request(client)
    await start(client, made, steps=[{"type": "RUN", "args": ["false"]}])
    await ended(client, made)
    assert (await status(client, made, logsOffset=1))["logs"] == ["exit status 1"]
    assert (await status(client, made, logsOffset=2))["logs"] == []
    assert (await status(client, made, limit=1))["logs"] == ["building mine"]
    assert (await status(client, made, level="warn"))["logs"] == ["exit status 1"]
    path = f"/templates/{made['templateID']}/builds"
    assert [entry["level"] for entry in (await client.get(f"{path}/{made['buildID']}/logs")).json()["logs"]] == [
        "info",
        "error",
    ]
    for bad in ("logsOffset=-1", "limit=101", "limit=0", "logsOffset=x"):
        assert (await client.get(f"{path}/{made['buildID']}/status?{bad}")).status_code == 400
    assert (await client.get(f"{path}/00000000-0000-4000-8000-000000000000/status")).status_code == 400
    assert (await client.get(f"{path}/nonsense/status")).status_code == 400


async def test_cancel(client: httpx.AsyncClient, node: MemoryNode) -> None:
    node.hold_build = asyncio.Event()
    made = await request(client)
    await start(client, made)
    path = f"/templates/{made['templateID']}/builds/{made['buildID']}"
    assert (await client.delete(path)).status_code == 204
    cancelled = await status(client, made)
    assert (cancelled["status"], cancelled["reason"]["message"]) == ("error", "the build was cancelled")
    assert (await client.delete(path)).status_code == 204
    assert (await client.post("/v2/sandboxes", json={"templateID": "mine"})).status_code == 404


async def test_deleting_a_template_cancels_its_builds(client: httpx.AsyncClient, node: MemoryNode) -> None:
    node.hold_build = asyncio.Event()
    made = await request(client)
    await start(client, made)
    assert (await client.delete("/templates/mine")).status_code == 204
    assert (await client.get("/templates/mine")).status_code == 404
    assert node.built == []


async def test_what_runs_keeps_its_build(client: httpx.AsyncClient, node: MemoryNode) -> None:
    made = await build(client)
    sandbox = (await client.post("/v2/sandboxes", json={"templateID": "mine"})).json()["sandboxID"]
    assert (await client.delete(f"/templates/{made['templateID']}")).status_code == 204
    assert (await client.post("/v2/sandboxes", json={"templateID": made["templateID"]})).status_code == 404
    assert [spec.build_id for spec in node.built] == [made["buildID"]]
    await build(client, "another")  # its end cleans up
    assert made["buildID"] in node.builds()
    assert (await client.delete(f"/sandboxes/{sandbox}")).status_code == 204
    await build(client, "another")
    while made["buildID"] in node.builds():  # behind the answer
        await asyncio.sleep(0.01)


async def test_builds_at_once_are_limited(client: httpx.AsyncClient, control: ControlPlane, node: MemoryNode) -> None:
    control.services.builds.limits.waiting = 2
    node.hold_build = asyncio.Event()
    for number in range(2):
        assert (await start(client, await request(client, f"t{number}"))).status_code == 202
    assert (await start(client, await request(client, "more"))).status_code == 429
    node.hold_build.set()


async def test_the_teams_share_of_the_disk(settings: Settings, node: MemoryNode) -> None:
    limits = settings.limits.model_copy(update={"templates_mb": 2})  # a MemoryNode's build has 1 MiB
    async with (
        ControlPlane(settings.model_copy(update={"limits": limits}), node) as control,
        api_client(control, control.first_key) as client,
    ):
        waiting = await request(client, "waiting")
        first = await build(client, "first")
        await build(client, "second")
        for refused in (await start(client, waiting), await client.post("/v3/templates", json={"name": "third"})):
            assert (refused.status_code, refused.json()["code"]) == (429, 429)
            assert "its limit is 2 MiB" in refused.json()["message"]
        assert (await client.delete(f"/templates/{first['templateID']}")).status_code == 204
        while first["buildID"] in node.builds():  # behind the answer
            await asyncio.sleep(0.01)
        assert (await start(client, waiting)).status_code == 202
        assert (await ended(client, waiting))["status"] == "ready"


async def test_a_server_that_ends_has_failed_its_builds(settings: Settings, node: MemoryNode) -> None:
    async with ControlPlane(settings, node) as control:
        key = control.first_key
        async with api_client(control, key) as client:
            node.hold_build = asyncio.Event()
            made = await request(client)
            await start(client, made)
    async with ControlPlane(settings, node) as control, api_client(control, key) as client:
        found = await status(client, made)
        assert (found["status"], found["reason"]["message"]) == ("error", LOST)


async def test_a_server_that_died_has_failed_its_builds(settings: Settings, node: MemoryNode) -> None:
    async with ControlPlane(settings, node) as control:
        key = control.first_key
        async with api_client(control, key) as client:
            made = await request(client)
            async with control.database.write() as session:
                build = await session.scalar(select(Build).where(Build.id == made["buildID"]))
                assert build is not None
                build.status = "building"
    async with ControlPlane(settings, node) as control, api_client(control, key) as client:
        assert (await status(client, made))["reason"]["message"] == LOST


# Files


async def link(client: httpx.AsyncClient, template_id: str, files_hash: str = FILES) -> dict[str, Any]:
    answer = await client.get(f"/templates/{template_id}/files/{files_hash}")
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_upload(client: httpx.AsyncClient, stranger: httpx.AsyncClient, control: ControlPlane) -> None:
    made = await request(client)
    first = await link(client, made["templateID"])
    assert first["present"] is False
    assert first["url"].startswith(f"http://{urlsplit(str(client.base_url)).netloc}/")
    path = urlsplit(first["url"]).path
    async with api_client(control, None) as nobody:
        assert (await nobody.put(path, content=b"an archive")).status_code == 200
        assert (await nobody.get(path)).status_code == 405
        forged = path[:-1] + ("0" if path[-1] != "0" else "1")
        for wrong in (forged, path[:-64], f"{path}x", "/template-files/x", "/template-files/%00"):
            assert (await nobody.put(wrong, content=b"x")).status_code == 403, wrong
    assert (await link(client, made["templateID"]))["present"] is True
    theirs = await request(stranger)
    assert (await link(stranger, theirs["templateID"]))["present"] is False, "a hash gives nobody another team's files"
    for wrong in ("x", "A" * 64, "a" * 63, "..%2f" * 10):
        assert (await client.get(f"/templates/{made['templateID']}/files/{wrong}")).status_code == 400


async def test_uploads_are_limited(client: httpx.AsyncClient, control: ControlPlane, settings: Settings) -> None:
    made = await request(client)
    uploads = control.services.builds.uploads
    uploads._archive_bytes, uploads._team_bytes = 1000, 2500
    path = urlsplit((await link(client, made["templateID"]))["url"]).path
    assert (await client.put(path, content=bytes(1001))).status_code == 413
    assert (await link(client, made["templateID"]))["present"] is False
    for number in range(3):
        path = urlsplit((await link(client, made["templateID"], f"{number}" * 64))["url"]).path
        assert (await client.put(path, content=io.BytesIO(bytes(1000)).getvalue())).status_code == 200
    present = [(await link(client, made["templateID"], f"{number}" * 64))["present"] for number in range(3)]
    assert (sum(present), present[2]) == (2, True), "the oldest goes"
    assert not list(settings.data_dir.glob("uploads/*/*.new"))


async def test_an_end_that_cannot_be_written_down_at_once(
    client: httpx.AsyncClient, node: MemoryNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written down later: nobody waits for ever for a build that has ended."""
    finish, failures = buildrecords.finish_build, iter(range(2))

    def sometimes(*arguments: Any) -> bool:
        if next(failures, None) is not None:
            raise OperationalError("UPDATE", {}, Exception("disk I/O error"))
        return finish(*arguments)

    monkeypatch.setattr("sandpit.control.templates.builds._END_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(buildrecords, "finish_build", sometimes)
    made = await request(client)
    assert (await start(client, made)).status_code == 202
    assert (await ended(client, made))["status"] == "ready"
