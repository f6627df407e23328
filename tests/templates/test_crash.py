"""A server that dies while it builds, and one that starts again with sandboxes whose template is gone."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests import leaks
from tests.live import Live

from sandpit.control.templates.builds import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(240)
PATIENCE = 120.0


@pytest.fixture
def server(built_images: None) -> Iterator[Live]:
    server = Live({"SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(server.name)
    server.start()
    yield server
    server.stop()
    leaks.kept.discard(server.name)
    server.remove()


def begin(server: Live, name: str, *commands: str) -> str:
    """Start a build; its path."""
    made = server.api.post("/v3/templates", json={"name": name, "cpuCount": 1, "memoryMB": 512}).json()
    steps = [{"type": "RUN", "args": [command, "root"], "force": False} for command in commands]
    path = f"/templates/{made['templateID']}/builds/{made['buildID']}"
    answer = server.api.post(f"/v2{path}", json={"fromTemplate": "base", "steps": steps, "force": False})
    assert answer.status_code == 202, answer.text
    return path


def until(server: Live, path: str, what: Any) -> dict[str, Any]:
    """The status when `what` is true of it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        status: dict[str, Any] = server.api.get(f"{path}/status").json()
        if what(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def until_written(server: Live, path: str) -> None:
    """Wait until the build's log so far is in the store."""
    wanted = "SELECT count(*) FROM build_logs WHERE build_id = ? AND message LIKE '%begun%'"
    deadline = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(server.data_dir / "sandpit.db")) as database:
        while database.execute(wanted, [path.rpartition("/")[2]]).fetchone()[0] < 2:  # the command, and what it says
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_is_killed_while_it_builds(server: Live) -> None:
    done = until(server, begin(server, "mine", "echo one > /one"), lambda status: status["status"] != "building")
    assert done["status"] == "ready", done
    sandbox = server.api.post("/v2/sandboxes", json={"templateID": "mine"}).json()["sandboxID"]
    path = begin(server, "mine", "echo one > /one", "echo two > /two", "sleep 0; echo begun; sleep 1000")
    until(server, path, lambda status: any(line.endswith("begun") for line in status["logs"]))
    until_written(server, path)

    server.kill()
    server.start()

    lost = until(server, path, lambda status: True)
    assert (lost["status"], lost["reason"]["message"]) == ("error", LOST)
    assert any(line.endswith("begun") for line in lost["logs"])
    data = server.data_dir
    assert [path.name for path in (data / "build/tmp").iterdir()] == []
    assert list((data / "layers/.tmp").glob("*.gone*")) == []
    assert not list(data.glob("layers/*/unsettled"))
    assert len(list((data / "sandboxes").iterdir())) == 1, "the one that runs"
    assert server.api.get(f"/sandboxes/{sandbox}").json()["state"] == "running"

    assert server.api.delete("/templates/mine").status_code == 204
    server.kill()
    server.start()
    assert server.api.get(f"/sandboxes/{sandbox}").json()["state"] == "running", "its template is gone, it is not"
    assert server.api.delete(f"/sandboxes/{sandbox}").status_code == 204
    again = until(server, begin(server, "mine", "echo one > /one"), lambda status: status["status"] != "building")
    assert again["status"] == "ready"
    assert len(list((data / "images").glob("*/image.json"))) == 3, "two that came with the product, one that is new"
