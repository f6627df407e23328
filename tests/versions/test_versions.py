"""Official clients of every age, in environments of their own, with what `sandpit env` prints (docs/clients.md has the table)."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandpit import __file__ as package

if TYPE_CHECKING:
    from tests.live import Live

HERE = Path(__file__).parent
REPOSITORY = Path(package).resolve().parents[2]
FOLDER = "SANDPIT_TEST_VERSIONS"
"""Names the folder with the environments; set by `./test`."""
PYTHON = sorted(path.stem for path in (REPOSITORY / "requirements/client-versions").glob("*.in"))
NODE = {
    "e2b-1.0": "interpreter-1.0",
    "e2b-1.13": "",
    "e2b-2.0": "interpreter-2.0",
    "e2b-2.10": "interpreter-2.4",
    "e2b-2.26": "",
}
SECONDS = 100
pytestmark = pytest.mark.timeout(SECONDS + 20)


@pytest.fixture(scope="session")
def environment(live: Live) -> dict[str, str]:
    """What a user's shell has after `eval "$(sandpit env)"`."""
    if not os.environ.get(FOLDER) or not shutil.which("node"):
        pytest.skip(f"{FOLDER} is not set, or there is no node: run ./test")
    try:
        socket.getaddrinfo("api.e2b.localhost", 443)
    except OSError:
        pytest.skip("names below localhost do not resolve here: see `sandpit doctor`")
    done = live.cli("env", "--json")
    assert done.returncode == 0, done.stderr
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, **json.loads(done.stdout), "PYTHONDONTWRITEBYTECODE": "1"}


def run(environment: dict[str, str], *command: str | Path) -> None:
    """Run a program to its good end; every name that it looked up is this machine's."""
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hosts = done.stdout.split()
    assert hosts, "no name was noted: the check cannot see where the client connects to"
    assert [host for host in hosts if not re.fullmatch(r"127\.0\.0\.1|([a-z0-9-]+\.)*e2b\.localhost", host)] == []


@pytest.mark.parametrize("version", PYTHON)
def test_python(environment: dict[str, str], version: str) -> None:
    python = Path(os.environ[FOLDER]) / f"python-{version}/bin/python"
    run(environment, python, "-W", "ignore", HERE / "python/check.py")


@pytest.mark.parametrize("client", NODE)
def test_javascript(environment: dict[str, str], client: str, tmp_path: Path) -> None:
    shutil.copy(HERE / "node/check.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(Path(os.environ[FOLDER]) / "node/node_modules")
    run(environment, "node", tmp_path / "check.mjs", client, *filter(None, (NODE[client],)))
