"""A real agent process for the tests of files, the file system service and watchers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[3] / "src"
TOKEN = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0"


@dataclass
class Agent:
    """A running agent and a client for its plain HTTP."""

    url: str
    pid: int
    http: httpx.Client

    def rpc(self, method: str, message: dict[str, Any], **headers: str) -> httpx.Response:
        content = json.dumps(message)  # not httpx's: it refuses what hostile clients send
        headers = {"content-type": "application/json", **headers}
        return self.http.post(f"/filesystem.Filesystem/{method}", content=content, headers=headers)

    def call(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        answer = self.rpc(method, message)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def code(self, method: str, message: dict[str, Any]) -> str:
        """The Connect error code of a call that must fail."""
        answer = self.rpc(method, message)
        assert answer.status_code >= 400, answer.text
        code: str = answer.json()["code"]
        return code

    def upload(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        octets = {"content-type": "application/octet-stream", **headers}
        return self.http.post("/files", params={"path": path}, content=content, headers=octets)

    def read(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get("/files", params={"path": path}, headers=headers)

    def memory(self) -> int:
        """Resident bytes at their highest."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024


# The program as it is, but for the identity that the node would give it: /init would also rename this machine.
PROGRAM = """
import functools, sys
from sandpit.guest.agent import __main__ as program
token, user = sys.argv[1:3]
del sys.argv[1:3]
program.AgentState = functools.partial(program.AgentState, access_token=token or None, default_user=user)
program.main()
"""


@contextmanager
def running(token: str | None = None, user: str = "root") -> Iterator[Agent]:
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--relay-port",
        "0",
        "--legacy-port",
        "0",
        "--gateway",
        "127.0.0.1",
    ]
    command = [sys.executable, "-c", PROGRAM, token or "", user, *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    try:
        ready = process.stderr.readline()
        port = re.search(r"port (\d+)", ready)
        assert port, ready + process.stderr.read()
        url = f"http://127.0.0.1:{port[1]}"
        # An agent outlives a test, a connection to it must not: the leak check counts them.
        limits = httpx.Limits(max_keepalive_connections=0)
        headers = {"accept-encoding": "identity"}
        with httpx.Client(base_url=url, headers=headers, limits=limits, timeout=30, trust_env=False) as client:
            yield Agent(url, process.pid, client)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("the agent is root")


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    """An open agent whose default user is root."""
    with running() as agent:
        yield agent


@pytest.fixture(scope="module")
def secured() -> Iterator[Agent]:
    """An agent with an access token whose default user is nobody."""
    with running(TOKEN, "nobody") as agent:
        yield agent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that all users can look into."""
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)
    return tmp_path
