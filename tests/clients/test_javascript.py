"""The official JavaScript clients: every file `node/*.test.mjs` in Node's own test runner, against the real server."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.clients.node_packages import needs_node, node_environment, node_modules
from tests.node.outside import OTHER_PUBLIC, PORT, PUBLIC, Outside

if TYPE_CHECKING:
    from tests.live import Live

NODE = Path(__file__).parent / "node"
SECONDS = 170

pytestmark = [needs_node, pytest.mark.timeout(SECONDS + 10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project: the files next to a `node_modules`, so that `import 'e2b'` finds what it finds for a user."""
    folder = tmp_path_factory.mktemp("javascript")
    for file in NODE.glob("*.mjs"):
        shutil.copy(file, folder)
    (folder / "node_modules").symlink_to(node_modules())
    return folder


@pytest.fixture(scope="module")
def keys(live: Live) -> dict[str, str]:
    """Keys of another team, and of one that may run one sandbox at a time."""
    other, few = live.another_team(), live.another_team()
    newest = "(SELECT id FROM teams ORDER BY created_at DESC LIMIT 1)"
    with sqlite3.connect(live.data_dir / "sandpit.db") as database:
        database.execute(f"UPDATE teams SET max_sandboxes = 1 WHERE id = {newest}")
    database.close()
    return {"SANDPIT_TEST_OTHER_KEY": other, "SANDPIT_TEST_FEW_KEY": few}


@pytest.mark.parametrize("name", sorted(path.name.removesuffix(".test.mjs") for path in NODE.glob("*.test.mjs")))
def test_javascript(name: str, live: Live, clients: dict[str, str], keys: dict[str, str], folder: Path) -> None:
    authority = {
        "SANDPIT_TEST_TLS": str(live.tls_url),
        "SANDPIT_TEST_CA": str(live.data_dir / "tls/e2b.localhost/ca.pem"),
    }
    urls = ",".join(f"http://{host}:{PORT}/" for host in (PUBLIC, OTHER_PUBLIC))
    environment = node_environment(clients) | keys | authority | {"SANDPIT_TEST_OUTSIDE": urls}
    # Forced, because the clients leave a timer of 60 s behind each request that the server refused.
    command = ["node", "--test-reporter=spec", "--test-force-exit", f"{name}.test.mjs"]
    with Outside() if name == "network" else open(os.devnull):
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    passed = done.returncode == 0 and "\N{INFORMATION SOURCE} fail 0\n" in done.stdout
    if not passed:
        pytest.fail(done.stdout, pytrace=False)
