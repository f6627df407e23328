"""Programs of others that use E2B's clients, unmodified, with what `sandpit env` prints: one small task each, no model's key.

`./compat` runs them all, `./test` those that install and start fast (docs/clients.md has the table).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live

HERE = Path(__file__).parent
FOLDER = "SANDPIT_TEST_THIRDPARTY"
"""Names the folder with the environments; set by `./test` and `./compat`."""
NAMES = os.environ.get("SANDPIT_TEST_THIRDPARTY_NAMES", "").split()
SECONDS = 150
_RUN = "import os, runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__'); sys.stdout.flush(); os._exit(0)"
"""Ends without Python's own end: threads of the clients' native code abort the process there, one time in four (e2b 2.63)."""
pytestmark = pytest.mark.timeout(SECONDS + 30)


@pytest.fixture(scope="module")
def key(live: Live) -> str:
    """The API key of a team that has nothing but what these programs make."""
    return live.another_team()


@pytest.fixture
def environment(live: Live, key: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What a user's shell has after `eval "$(sandpit env)"`; sandboxes that the program leaves end with the test."""
    done = live.cli("env", "--json")
    assert done.returncode == 0, done.stderr
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    quiet = {
        "PYTHONFAULTHANDLER": "1",
        "HOME": str(tmp_path),
        "CREWAI_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
    }
    yield {**kept, **json.loads(done.stdout), **quiet, "E2B_API_KEY": key}
    headers = {"X-API-KEY": key}
    for sandbox in live.api.get("/sandboxes", headers=headers).raise_for_status().json():
        live.api.delete(f"/sandboxes/{sandbox['sandboxID']}", headers=headers)


def command(name: str, folder: Path) -> list[str | Path]:
    """The task of a program, in the program's own environment; `folder` may be written to."""
    there = Path(os.environ[FOLDER]) / name
    if (task := HERE / "node" / name / "check.mjs").exists():
        shutil.copy(task, folder)
        (folder / "node_modules").symlink_to(there / "node_modules")
        return ["node", folder / task.name]
    python = there / "bin/python"
    if not python.exists():
        pytest.skip(f"{name} is not installed: it needs a newer Python than there is")
    # Neither this folder nor the current one may lend it modules: tasks have the names of their programs.
    return [python, "-P", "-W", "ignore", "-c", _RUN, HERE / "python" / f"{name.replace('-', '_')}.py"]


@pytest.mark.skipif(not NAMES, reason=f"{FOLDER} is not set: run ./compat")
@pytest.mark.parametrize("name", NAMES)
def test_task(environment: dict[str, str], name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(name, tmp_path), env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
