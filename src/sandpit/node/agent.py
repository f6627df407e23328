"""The node's side of the agent: is it up, who is it, run this."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sandpit.node.contract import NodeError
from sandpit.node.control_secret import ControlSecret

PORT = 49983
_DISK_CHUNK = 4 << 20
_JOURNAL_BYTES = 1 << 20
_LOOK_SECONDS = 120.0
"""To walk through all that a sandbox has written."""
_KEEPALIVE_SECONDS = 10
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Agents speak plain HTTP. By default every client loads all CA certificates, which stops the event loop for 20 ms."""


class AgentUnavailable(NodeError):
    """The agent of a sandbox does not answer as it should."""


class CommandRefused(AgentUnavailable):
    """The agent does not start a command; it answers."""

    def __init__(self, message: str, error: Mapping[str, str]) -> None:
        """`error` is Connect's: `code` and `message`."""
        super().__init__(message)
        self.reason = f"{error.get('code', 'unknown')}: {error.get('message', '')}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox is from now on (docs/architecture.md, the guest)."""

    sandbox_id: str
    template_id: str
    access_token: str | None
    env: Mapping[str, str]
    user: str
    workdir: str | None
    resumed: bool = False
    """The sandbox was this one before, and goes on: its randomness stays as it is."""

    def body(self) -> dict[str, Any]:
        """The JSON body of `POST /init`."""
        return {
            "sandboxID": self.sandbox_id,
            "templateID": self.template_id,
            "accessToken": self.access_token,
            "envVars": dict(self.env),
            "defaultUser": self.user,
            "defaultWorkdir": self.workdir,
            "resumed": self.resumed,
        }


class Agent:
    """The agent at one address. Owns its connections: close it."""

    def __init__(self, address: str, secret: ControlSecret) -> None:
        """Name the agent, and what it knows us by; nothing is sent."""
        self.secret = secret
        self._url = f"http://{address}:{PORT}"
        self._http = self._client()

    def _client(self) -> httpx.AsyncClient:
        timeout = httpx.Timeout(30, connect=1)
        return httpx.AsyncClient(
            base_url=self._url, timeout=timeout, trust_env=False, verify=_NO_CERTIFICATES, auth=self._prove
        )

    def _prove(self, request: httpx.Request) -> httpx.Request:
        """Add what a control call is known by."""
        request.headers.update(self.secret.headers(request.url.path))
        return request

    async def hang_up(self) -> None:
        """Close the connections; the next call makes new ones."""
        before, self._http = self._http, self._client()
        await before.aclose()

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
        """Give the agent an identity, and a new secret to know us by. Raises: AgentUnavailable."""
        body = {**identity.body(), "controlKeys": self.secret.offer()}
        try:
            answer = await self._http.post("/init", json=body)
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"the sandbox's agent did not take its identity: {error!r}") from error
        if answer.status_code != 204:
            raise AgentUnavailable(
                f"the sandbox's agent refused its identity: {answer.status_code} {answer.text[:500]}"
            )
        self.secret.accepted()

    async def upload(self, path: str, content: bytes | AsyncIterator[bytes]) -> None:
        """Write a file as root. Raises: AgentUnavailable, and what reading `content` raises."""
        headers = {"Content-Type": "application/octet-stream"}
        try:
            answer = await self._http.post(
                "/files", params={"path": path, "username": "root"}, content=content, headers=headers
            )
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"the sandbox's agent did not take {path}: {error!r}") from error
        if answer.status_code != 200:
            raise AgentUnavailable(f"the sandbox's agent refused {path}: {answer.status_code} {answer.text[:500]}")

    async def save_disk(self, target: Path, *, stop_processes: bool, limit: int) -> None:
        """Write all that the sandbox has written into a file, with its processes stopped if wanted (see `unfreeze`).

        The sandbox is not believed about the size: beyond `limit` bytes it fails. Raises: AgentUnavailable, OSError.
        """
        await self._save("/disk", {"stop": "1"} if stop_processes else {}, target, limit)

    async def look(self) -> None:
        """Have the next `save_changes` give what is written from now on. Raises: AgentUnavailable."""
        await self._tell("/changes", _LOOK_SECONDS)

    async def settle(self) -> None:
        """End all that runs in the sandbox beside the agent. Raises: AgentUnavailable."""
        await self._tell("/changes?settle=1", _LOOK_SECONDS)

    async def save_changes(self, target: Path, *, limit: int) -> None:
        """Write what the sandbox has written since the last time into a file, as a layer. Raises: AgentUnavailable, OSError."""
        await self._save("/changes", {}, target, limit)

    async def _save(self, path: str, params: Mapping[str, str], target: Path, limit: int) -> None:
        size = 0
        try:
            async with self._http.stream("GET", path, params=params, timeout=_LOOK_SECONDS) as answer:
                if answer.status_code != 200:
                    raise AgentUnavailable(f"the agent did not give its disk: {answer.status_code}")
                with target.open("xb", buffering=0) as file:
                    async for chunk in answer.aiter_raw(_DISK_CHUNK):
                        size += len(chunk)
                        if size > limit:
                            raise AgentUnavailable(f"the agent gives more than the {limit} bytes its disk can hold")
                        await asyncio.to_thread(file.write, chunk)
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"lost the agent while reading its disk: {error!r}") from error

    async def journal(self, after: int, *, wait: bool) -> bytes:
        """The events after a position, as JSON; with `wait` as soon as there are any. Raises: AgentUnavailable."""
        params = {"after": str(after), "wait": "1" if wait else "0"}
        body = bytearray()
        try:
            async with self._http.stream("GET", "/journal", params=params, timeout=_journal_timeout(wait)) as answer:
                if answer.status_code != 200:
                    raise AgentUnavailable(f"the agent did not give its journal: {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > _JOURNAL_BYTES:
                        raise AgentUnavailable(f"the agent's journal is larger than {_JOURNAL_BYTES} bytes")
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"lost the agent while reading its journal: {error!r}") from error
        return bytes(body)

    async def freeze(self, timeout: float) -> None:
        """Tell the sandbox that its connections are about to be cut for a snapshot. Raises: AgentUnavailable."""
        await self._tell("/freeze", timeout)

    async def unfreeze(self, timeout: float) -> None:
        """Tell it that it goes on, with processes that `save_disk` has stopped; nothing if it was not frozen. Raises: AgentUnavailable."""
        await self._tell("/unfreeze", timeout)

    async def _tell(self, path: str, timeout: float) -> None:
        try:
            answer = await self._http.post(path, timeout=timeout)
            if answer.status_code == 404 and self.secret.swap():
                answer = await self._http.post(path, timeout=timeout)
        except httpx.HTTPError as error:
            raise AgentUnavailable(f"the sandbox's agent did not answer {path}: {error!r}") from error
        if answer.status_code != 204:
            raise AgentUnavailable(f"the sandbox's agent refused {path}: {answer.status_code}")
        self.secret.confirmed()

    async def start(self, command: str, *, user: str, tag: str | None = None) -> int:
        """Start a shell command that goes on after this call; returns its pid. Raises: AgentUnavailable."""
        async with self._events(command, user, tag) as events:
            async for event in events:
                if "start" in event:
                    return int(event["start"]["pid"])
        raise AgentUnavailable(f"{command!r} did not start")

    async def run(self, command: str | Sequence[str], *, user: str) -> tuple[int, str]:
        """Run a shell command, or a program with its arguments, to its end; returns exit code and output. Raises: AgentUnavailable."""
        output = bytearray()
        async with self._events(command, user, None) as events:
            async for event in events:
                for stream in event.get("data", {}).values():
                    output += base64.b64decode(stream)
                if "end" in event:
                    return int(event["end"].get("exitCode", 0)), output.decode(errors="replace")
        raise AgentUnavailable(f"{command!r} ended without a status")

    async def follow(
        self,
        command: str | Sequence[str],
        *,
        user: str,
        output: Callable[[str, bytes], None],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        tag: str | None = None,
        started: Callable[[], None] | None = None,
    ) -> int:
        """Run a program to its end, giving what it prints to `output` ("stdout" or "stderr") as it comes; returns its exit code.

        Going away leaves it running. Raises: AgentUnavailable.
        """
        async with self._events(command, user, tag, env, cwd) as events:
            async for event in events:
                if "start" in event and started is not None:
                    started()
                for name, chunk in event.get("data", {}).items():
                    output(name, base64.b64decode(chunk))
                if "end" in event:
                    return int(event["end"].get("exitCode", 0))
        raise AgentUnavailable(f"{command!r} ended without a status")

    @asynccontextmanager
    async def _events(
        self,
        command: str | Sequence[str],
        user: str,
        tag: str | None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The event stream of a process (current-protocol 4.3, 5)."""
        program, *arguments = ["/bin/sh", "-l", "-c", command] if isinstance(command, str) else command
        process: dict[str, Any] = {"cmd": program, "args": arguments, "envs": dict(env or {})}
        if cwd is not None:
            process["cwd"] = cwd
        message: dict[str, Any] = {"process": process, "stdin": False}
        if tag is not None:
            message["tag"] = tag
        payload = json.dumps(message).encode()
        headers = {
            "Content-Type": "application/connect+json",
            "Connect-Protocol-Version": "1",
            "Keepalive-Ping-Interval": str(_KEEPALIVE_SECONDS),
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


def _journal_timeout(wait: bool) -> httpx.Timeout:
    """Nothing may happen for days."""
    return httpx.Timeout(30, connect=5, read=None if wait else 30)


async def _messages(answer: httpx.Response, command: str | Sequence[str]) -> AsyncIterator[dict[str, Any]]:
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
                    raise CommandRefused(f"{command!r}: {message['error']}", message["error"])
                return
            yield message["event"]
