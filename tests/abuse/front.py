"""A sandbox as its owner holds it: everything comes in through the two public ports of a real server."""

from __future__ import annotations

import base64
import json
import socket
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.live import Live

AGENT, RELAY = 49983, 49981
_ENVELOPE = struct.Struct(">BI")
_END = 2


@dataclass
class FrontBox:
    """A running sandbox of a server's first team."""

    live: Live
    id: str
    token: str
    closed: bool = field(default=False)

    @classmethod
    def create(cls, live: Live, template: str = "base", **fields: Any) -> FrontBox:
        """A new secured sandbox; `fields` go into the request's body."""
        answer = live.api.post("/v2/sandboxes", json={"templateID": template, **fields})
        assert answer.status_code == 201, answer.text
        made = answer.json()
        return cls(live, made["sandboxID"], made["envdAccessToken"])

    def headers(self, port: int = AGENT) -> dict[str, str]:
        """What names this sandbox, and opens its agent."""
        return {"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(port), "X-Access-Token": self.token}

    @contextmanager
    def http(self, port: int = AGENT) -> Iterator[httpx.Client]:
        """A client of one of its ports."""
        with httpx.Client(
            base_url=self.live.edge_url, headers=self.headers(port), trust_env=False, timeout=120
        ) as client:
            yield client

    def call(self, method: str, message: dict[str, Any], user: str = "root") -> httpx.Response:
        """A unary call of the agent, for instance `filesystem.Filesystem/Stat`."""
        with self.http() as http:
            return http.post(f"/{method}", json=message, headers=_basic(user))

    @contextmanager
    def stream(self, method: str, message: dict[str, Any], user: str = "root") -> Iterator[httpx.Response]:
        """A server stream of the agent, undecoded."""
        payload = json.dumps(message).encode()
        headers = {"Content-Type": "application/connect+json", **_basic(user)}
        with (
            self.http() as http,
            http.stream(
                "POST", f"/{method}", content=_ENVELOPE.pack(0, len(payload)) + payload, headers=headers
            ) as got,
        ):
            yield got

    @contextmanager
    def start(self, command: str, user: str = "root", **process: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Start a shell command and give its events; leaving leaves it running."""
        message = {"process": {"cmd": "/bin/bash", "args": ["-c", command], **process}, "stdin": False}
        with self.stream("process.Process/Start", message, user) as got:
            assert got.status_code == 200, got.read()
            yield (message["event"] for message in messages(got) if "event" in message)

    def run(self, command: str, user: str = "root", **process: Any) -> tuple[int, str]:
        """Exit code and output of a shell command; -1 for one that a signal ended."""
        output = bytearray()
        with self.start(command, user, **process) as events:
            for event in events:
                for part in event.get("data", {}).values():
                    output += base64.b64decode(part)
                if "end" in event:
                    return int(event["end"].get("exitCode", 0)), output.decode(errors="replace")
        raise AssertionError(f"{command!r} did not end")

    def sh(self, command: str, user: str = "root") -> str:
        """The output of a shell command that must succeed."""
        status, output = self.run(command, user)
        assert status == 0, f"{command!r} ended with {status}: {output}"
        return output.strip()

    def refusal(self, command: str = "true", user: str = "root", **process: Any) -> tuple[str, str]:
        """Code and text with which a start is refused."""
        message = {"process": {"cmd": command, **process}, "stdin": False}
        with self.stream("process.Process/Start", message, user) as got:
            last = list(messages(got))[-1]
        return last["error"]["code"], last["error"]["message"]

    def alive(self) -> bool:
        """Whether it still runs a command."""
        return self.run("echo on") == (0, "on\n")

    def kill(self) -> None:
        """End it, if it has not ended."""
        if not self.closed:
            self.closed = True
            assert self.live.api.delete(f"/sandboxes/{self.id}").status_code in (204, 404)


def _basic(user: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode()}


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The messages of a Connect stream; the last one is the end of the stream."""
    buffer = bytearray()
    for chunk in answer.iter_raw():
        buffer += chunk
        while len(buffer) >= _ENVELOPE.size:
            flags, length = _ENVELOPE.unpack_from(buffer)
            if len(buffer) < _ENVELOPE.size + length:
                break
            yield json.loads(buffer[_ENVELOPE.size : _ENVELOPE.size + length])
            del buffer[: _ENVELOPE.size + length]
            if flags & _END:
                return


def raw(url: str, data: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and all of the answer. The request must ask for `Connection: close`."""
    target = httpx.URL(url)
    with socket.create_connection((target.host, target.port or 80), timeout=30) as client:
        client.sendall(data)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return int(answer.split(b" ", 2)[1]), answer


def head(method: str, path: str, *headers: tuple[str, str]) -> bytes:
    """The head of a request, nothing added or checked."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")
