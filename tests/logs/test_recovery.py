"""The server dies: what happens meanwhile is in the log, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import e2b
import pytest
from tests import leaks
from tests.live import Live
from tests.logs.conftest import Logs, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.official_client


@pytest.fixture
def server(built_images: None) -> Iterator[Live]:
    server = Live({"SANDPIT_POOL__SIZE": "0"})
    leaks.kept.add(server.name)
    server.start()
    yield server
    server.stop()
    server.remove()
    leaks.kept.discard(server.name)


def said(logs: Logs, name: str) -> list[str]:
    lines = [line["fields"].get("cmd", line["message"]) for line in logs(name)]
    return [line.rpartition("echo ")[2].strip("'") for line in lines if not line.startswith("process")]


def test_a_killed_server_loses_and_repeats_nothing(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("E2B_DEBUG", "E2B_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.clients.items():
        monkeypatch.setenv(name, value)
    sandbox = e2b.Sandbox.create(timeout=600)
    name = sandbox.sandbox_id
    sandbox.commands.run("echo one")
    Logs(server).until_said(name, "process ended")
    sandbox.commands.run("sleep 1", background=True)
    sandbox.commands.run("echo two")
    server.kill()
    server.start()
    for variable, value in server.clients.items():
        monkeypatch.setenv(variable, value)
    again = e2b.Sandbox.connect(name)
    again.commands.run("echo three")
    logs = Logs(server)
    logs.until(name, lambda lines: messages(lines).count("process ended") == 4)
    again.kill()
    told = [text for text in said(logs, name) if text in ("one", "two", "three")]
    assert told == ["one", "two", "three"]
    lines = logs(name)
    ended = [line["fields"]["pid"] for line in lines if line["message"] == "process ended"]
    assert sorted(ended) == sorted({line["fields"]["pid"] for line in lines if line["message"] == "process started"})
