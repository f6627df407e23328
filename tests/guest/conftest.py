"""An agent of its own for the guest's tests, and a client that sees the exact bytes."""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandpit.node.guests.control_secret import HEADER, ControlSecret

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVELOPE = struct.Struct(">BI")


class AgentClient:
    """Speaks Connect-JSON to an agent."""

    def __init__(self, port: int, relay_port: int, legacy_port: int, pid: int, secret: ControlSecret) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.relay_port = relay_port
        self.legacy = f"127.0.0.1:{legacy_port}"
        """Where the protocol of 2024 is spoken."""
        self.pid = pid
        self.secret = secret
        """What the agent knows the node and the edge by."""
        self.http = httpx.Client(base_url=self.url, timeout=20, headers={HEADER: secret.current})

    def unary(self, method: str, message: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(f"/process.Process/{method}", json=message, headers=_names(headers))

    def stream(self, method: str, message: dict[str, Any], **headers: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The (flags, message) of every envelope of the answer."""
        payload = json.dumps(message).encode()
        sent = {"content-type": "application/connect+json", **_names(headers)}
        body = ENVELOPE.pack(0, len(payload)) + payload
        with self.http.stream("POST", f"/process.Process/{method}", content=body, headers=sent) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/connect+json"
            buffer = b""
            for chunk in answer.iter_raw():
                buffer += chunk
                while len(buffer) >= 5 and len(buffer) >= 5 + ENVELOPE.unpack_from(buffer)[1]:
                    flags, length = ENVELOPE.unpack_from(buffer)
                    yield flags, json.loads(buffer[5 : 5 + length])
                    buffer = buffer[5 + length :]
            assert not buffer

    def run(self, script: str, **options: Any) -> Result:
        process = {"cmd": "/bin/bash", "args": ["-c", script], "cwd": "/", **options.pop("process", {})}
        message = {"process": process, "stdin": False, **options.pop("request", {})}
        return Result(list(self.stream("Start", message, **options)))

    def start(self, script: str, **request: Any) -> tuple[int, Iterator[tuple[int, dict[str, Any]]]]:
        """The pid of a command, and the rest of its stream."""
        message = {"process": {"cmd": "/bin/bash", "args": ["-c", script], "cwd": "/"}, **request}
        events = self.stream("Start", message)
        pid: int = next(events)[1]["event"]["start"]["pid"]
        return pid, events


class Result:
    """A whole answer of Start or Connect."""

    def __init__(self, envelopes: list[tuple[int, dict[str, Any]]]) -> None:
        assert [flags for flags, _ in envelopes] == [0] * (len(envelopes) - 1) + [2]
        self.events = [message["event"] for _, message in envelopes[:-1]]
        self.trailer = envelopes[-1][1]
        self.end = self.events[-1].get("end") if self.events else None

    def output(self, name: str = "stdout") -> bytes:
        chunks = (event["data"].get(name, "") for event in self.events if "data" in event)
        return b"".join(map(base64.b64decode, chunks))

    @property
    def error(self) -> tuple[str, str]:
        return self.trailer["error"]["code"], self.trailer["error"]["message"]


@pytest.fixture
def agent() -> Iterator[AgentClient]:
    """A fresh agent; its gateway is 127.0.0.1, so that tests may call /init."""
    yield from _agent("127.0.0.1")


@pytest.fixture
def guarded_agent() -> Iterator[AgentClient]:
    """An agent for which this machine is not the gateway."""
    yield from _agent("169.254.0.22")


@pytest.fixture
def distant_agent() -> Iterator[AgentClient]:
    """An agent whose gateway is 127.0.0.2: tests can be both sides."""
    yield from _agent("127.0.0.2")


def _agent(gateway: str) -> Iterator[AgentClient]:
    if os.geteuid() != 0:
        pytest.skip("the agent is root in its sandbox")
    options = ["--host", "127.0.0.1", "--port", "0", "--relay-port", "0", "--legacy-port", "0", "--gateway", gateway]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-m", "sandpit.guest.agent", *options]
    secret = ControlSecret.new()
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=env, stdin=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(secret.handover().decode())
        process.stdin.flush()
        [ports] = re.findall(r"port (\d+), relay (\d+), 2024's (\d+)", process.stderr.readline())
        port, relay_port, legacy_port = map(int, ports)
        client = AgentClient(port, relay_port, legacy_port, process.pid, secret)
        try:
            yield client
        finally:
            client.http.close()
            process.kill()


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
