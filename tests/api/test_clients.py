"""The official clients, unmodified, over real HTTP.

SANDPIT_TEST_E2B_PYTHON names a Python interpreter that has `e2b`; SANDPIT_TEST_E2B_NODE a folder whose `node_modules`
has `e2b` and `@e2b/cli`. Without them these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandpit.store.models import Team

if TYPE_CHECKING:
    from sandpit.control.app import ControlPlane

CLIENTS = Path(__file__).parent / "clients"
PYTHON = os.environ.get("SANDPIT_TEST_E2B_PYTHON")
NODE_FOLDER = os.environ.get("SANDPIT_TEST_E2B_NODE")
needs_python = pytest.mark.skipif(not PYTHON, reason="SANDPIT_TEST_E2B_PYTHON is not set")
needs_node = pytest.mark.skipif(
    not (NODE_FOLDER and shutil.which("node")), reason="SANDPIT_TEST_E2B_NODE is not set, or there is no node"
)


@pytest.fixture
async def environment(control: ControlPlane, server_url: str, tmp_path: Path) -> dict[str, str]:
    """What a user sets; the team may run three sandboxes."""
    identity = await control.services.keys.authenticate(str(control.first_key))
    async with control.database.write() as session:
        (await session.get_one(Team, identity.team_id)).max_sandboxes = 3
    control.services.keys.forget_all()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("E2B_", "PYTHON"))}
    return kept | {
        "HOME": str(tmp_path),
        "E2B_API_KEY": str(control.first_key),
        "E2B_API_URL": server_url,
        "E2B_SANDBOX_URL": server_url,
        "E2B_NODE_MODULES": f"{NODE_FOLDER}/node_modules",
        "NO_UPDATE_NOTIFIER": "1",
    }


async def run(environment: dict[str, str], *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stdout.decode() + stderr.decode()
    return stdout.decode()


@needs_python
async def test_python(environment: dict[str, str]) -> None:
    assert await run(environment, str(PYTHON), str(CLIENTS / "current.py")) == "ok\n"


@needs_node
async def test_javascript(environment: dict[str, str]) -> None:
    assert await run(environment, "node", str(CLIENTS / "current.mjs")) == "ok\n"


@needs_node
async def test_cli(environment: dict[str, str]) -> None:
    async def e2b(*arguments: str) -> str:
        entry = f"{NODE_FOLDER}/node_modules/@e2b/cli/dist/index.js"
        return (await run(environment, "node", entry, *arguments)).strip()

    made = await e2b("sandbox", "create", "base", "--detach")
    listed = json.loads(await e2b("sandbox", "list", "--format", "json"))
    assert [item["sandboxId"] for item in listed] == [made]
    assert json.loads(await e2b("sandbox", "info", made, "--format", "json"))["state"] == "running"
    await e2b("sandbox", "metrics", made, "--format", "json")
    log = json.loads((await e2b("sandbox", "logs", made, "--format", "json")).splitlines()[0])
    assert log["message"] == "sandbox created"
    assert "base" in await e2b("template", "list")
    assert "has been killed" in await e2b("sandbox", "kill", made)
    assert json.loads(await e2b("sandbox", "list", "--format", "json")) == []
