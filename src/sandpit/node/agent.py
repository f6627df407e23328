"""The node's side of the agent: is it up, who is it, run this."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from sandpit.node.contract import NodeError

PORT = 49983


class AgentUnavailable(NodeError):
    """The agent of a sandbox does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox is from now on (docs/architecture.md, the guest)."""

    sandbox_id: str
    template_id: str
    access_token: str | None
    env: Mapping[str, str]
    user: str
    workdir: str | None

    def body(self) -> dict[str, Any]:
        """The JSON body of `POST /init`."""
        return {
            "sandboxID": self.sandbox_id,
            "templateID": self.template_id,
            "accessToken": self.access_token,
            "envVars": dict(self.env),
            "defaultUser": self.user,
            "defaultWorkdir": self.workdir,
        }


class Agent:
    """The agent at one address. Owns its connections: close it."""

    def __init__(self, address: str) -> None:
        """Name the agent; nothing is sent."""
        self._http = httpx.AsyncClient(
            base_url=f"http://{address}:{PORT}", timeout=httpx.Timeout(30, connect=1), trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def wait_healthy(self, timeout: float) -> None:
        """Return as soon as the agent answers. Raises: AgentUnavailable after `timeout` seconds."""
        pause = 0.002
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        answer = await self._http.get("/health")
                        if answer.is_success:
                            return
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 0.05)
        except TimeoutError:
            raise AgentUnavailable(f"the sandbox's agent did not answer within {timeout:g} s of its start") from None

    async def claim(self, identity: Identity) -> None:
        """Tell the agent who it is. Raises: AgentUnavailable."""
        try:
            answer = await self._http.post("/init", json=identity.body())
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"the sandbox's agent did not take its identity: {error!r}") from error
        if answer.status_code != 204:
            raise AgentUnavailable(
                f"the sandbox's agent refused its identity: {answer.status_code} {answer.text[:500]}"
            )

    async def upload(self, path: str, content: bytes) -> None:
        """Write a file as root. Raises: AgentUnavailable."""
        headers = {"Content-Type": "application/octet-stream"}
        try:
            answer = await self._http.post(
                "/files", params={"path": path, "username": "root"}, content=content, headers=headers
            )
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"the sandbox's agent did not take {path}: {error!r}") from error
        if answer.status_code != 200:
            raise AgentUnavailable(f"the sandbox's agent refused {path}: {answer.status_code} {answer.text[:500]}")

    async def start(self, command: str, *, user: str, tag: str | None = None) -> int:
        """Start a shell command that goes on after this call; returns its pid. Raises: AgentUnavailable."""
        async with self._events(command, user, tag) as events:
            async for event in events:
                if "start" in event:
                    return int(event["start"]["pid"])
        raise AgentUnavailable(f"{command!r} did not start")

    async def run(self, command: str, *, user: str) -> tuple[int, str]:
        """Run a shell command to its end; returns exit code and output. Raises: AgentUnavailable."""
        output = bytearray()
        async with self._events(command, user, None) as events:
            async for event in events:
                for stream in event.get("data", {}).values():
                    output += base64.b64decode(stream)
                if "end" in event:
                    return int(event["end"].get("exitCode", 0)), output.decode(errors="replace")
        raise AgentUnavailable(f"{command!r} ended without a status")

    @asynccontextmanager
    async def _events(self, command: str, user: str, tag: str | None) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The event stream of a process (current-protocol 4.3, 5)."""
        message: dict[str, Any] = {"process": {"cmd": "/bin/sh", "args": ["-l", "-c", command]}, "stdin": False}
        if tag is not None:
            message["tag"] = tag
        payload = json.dumps(message).encode()
        headers = {
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            "Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode(),
        }
        body = struct.pack(">BI", 0, len(payload)) + payload
        try:
            async with self._http.stream("POST", "/process.Process/Start", content=body, headers=headers) as answer:
                if answer.status_code != 200:
                    text = (await answer.aread()).decode(errors="replace")
                    raise AgentUnavailable(f"the agent refused {command!r}: {answer.status_code} {text[:500]}")
                yield _messages(answer, command)
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"lost the agent while running {command!r}: {error!r}") from error


async def _messages(answer: httpx.Response, command: str) -> AsyncIterator[dict[str, Any]]:
    """Split a Connect stream into its events. Raises: AgentUnavailable for an error end."""
    buffer = bytearray()
    async for chunk in answer.aiter_raw():
        buffer += chunk
        while len(buffer) >= 5:
            flags, length = struct.unpack_from(">BI", buffer)
            if len(buffer) < 5 + length:
                break
            message = json.loads(buffer[5 : 5 + length])
            del buffer[: 5 + length]
            if flags & 2:
                if "error" in message:
                    raise AgentUnavailable(f"{command!r}: {message['error']}")
                return
            yield message["event"]
