"""The node's side of the agent: is it up, who is it, run this.

Every call has a limit in bytes and in total time (`guesthttp`): who answers may be code in the sandbox.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sandpit.node.guests.control_secret import ControlSecret
from sandpit.node.guests.http import CONNECT_SECONDS, AgentUnavailable, Answer, GuestHttp
from sandpit.node.guests.messages import CommandRefused, events, exit_code, expect
from sandpit.node.guests.messages import output as printed
from sandpit.protocol import ports

__all__ = ["Agent", "AgentUnavailable", "CommandRefused", "Identity"]

_CALL_SECONDS = 30.0
_CALL_BYTES = 16 << 10
"""Of answers that are a status, and a reason if it is a bad one."""
_HEALTH_SECONDS = 10.0
_HEALTH_CONNECT_SECONDS = 1.0
_DISK_CHUNK = 4 << 20
_DISK_SECONDS = 600.0
"""To send all that a sandbox has written."""
_UPLOAD_SECONDS = 1800.0
_JOURNAL_BYTES = 1 << 20
_JOURNAL_SECONDS = 3600.0
"""Nothing may happen for long; then it is asked again."""
_LOOK_SECONDS = 120.0
"""To walk through all that a sandbox has written."""
_RUN_SECONDS = 600.0
_KEPT_BYTES = 1 << 20
"""Of a command's output: its end."""
_STREAM_BYTES = 8 << 30
_KEEPALIVE_SECONDS = 10

Claim = Callable[[int], None]
"""Asked for room on the disk, in bytes; raises when there is none."""


def _take_it(_size: int) -> None:
    """Room without asking."""


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
        self._http = GuestHttp(address, ports.AGENT)

    async def hang_up(self) -> None:
        """Close the connections; the next call makes new ones."""
        self._http.hang_up()

    async def close(self) -> None:
        """Close the connections; later calls fail."""
        self._http.close()

    def _call(
        self,
        method: str,
        target: str,
        *,
        seconds: float,
        limit: int,
        connect: float = CONNECT_SECONDS,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] = b"",
    ) -> AbstractAsyncContextManager[Answer]:
        """Every call goes through here. See GuestHttp.call; control calls carry what the agent knows us by."""
        proved = {**(headers or {}), **self.secret.headers(target.partition("?")[0])}
        return self._http.call(
            method, target, seconds=seconds, limit=limit, connect=connect, headers=proved, content=content
        )

    async def wait_healthy(self, timeout: float) -> None:
        """Return as soon as the agent answers. Raises: AgentUnavailable after `timeout` seconds."""
        pause = 0.002
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if await self._healthy():
                        return
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, 0.05)
        except TimeoutError:
            raise AgentUnavailable(f"the sandbox's agent did not answer within {timeout:g} s of its start") from None

    async def _healthy(self) -> bool:
        try:
            async with self._call(
                "GET", "/health", seconds=_HEALTH_SECONDS, limit=_CALL_BYTES, connect=_HEALTH_CONNECT_SECONDS
            ) as answer:
                return answer.status < 300
        except AgentUnavailable:
            return False

    async def claim(self, identity: Identity) -> None:
        """Give the agent an identity, and a new secret to know us by. Raises: AgentUnavailable."""
        keys = self.secret.offer()
        body = {**identity.body(), **({"controlKeys": keys} if keys else {})}
        await self._tell("/init", _CALL_SECONDS, json.dumps(body).encode())
        self.secret.accepted()

    async def upload(self, path: str, content: bytes | AsyncIterator[bytes]) -> None:
        """Write a file as root. Raises: AgentUnavailable, and what reading `content` raises."""
        target = f"/files?{urlencode({'path': path, 'username': 'root'})}"
        headers = {"Content-Type": "application/octet-stream"}
        async with self._call(
            "POST", target, seconds=_UPLOAD_SECONDS, limit=_CALL_BYTES, headers=headers, content=content
        ) as answer:
            reason = await answer.read()
            if answer.status != 200:
                raise AgentUnavailable(f"the sandbox's agent refused {path}: {answer.status} {_shown(reason)}")

    async def save_disk(self, target: Path, *, stop_processes: bool, limit: int, claim: Claim = _take_it) -> None:
        """Write all that the sandbox has written into a file, with its processes stopped if wanted (see `unfreeze`).

        The sandbox is not believed about the size: beyond `limit` bytes it fails. `claim` is asked before so many bytes more are written.
        Raises: AgentUnavailable, OSError, and what `claim` raises.
        """
        await self._save("/disk?stop=1" if stop_processes else "/disk", target, limit, claim)

    async def look(self) -> None:
        """Have the next `save_changes` give what is written from now on. Raises: AgentUnavailable."""
        await self._tell("/changes", _LOOK_SECONDS)

    async def settle(self) -> None:
        """End all that runs in the sandbox beside the agent. Raises: AgentUnavailable."""
        await self._tell("/changes?settle=1", _LOOK_SECONDS)

    async def save_changes(self, target: Path, *, limit: int, claim: Claim = _take_it) -> None:
        """Write what the sandbox has written since the last time into a file, as a layer. Raises: as `save_disk`."""
        await self._save("/changes", target, limit, claim)

    async def _save(self, path: str, target: Path, limit: int, claim: Claim) -> None:
        async with self._call("GET", path, seconds=_DISK_SECONDS, limit=limit) as answer:
            if answer.status != 200:
                raise AgentUnavailable(f"the agent did not give its disk: {answer.status}")
            with target.open("xb", buffering=0) as file:
                waiting = bytearray()
                async for piece in answer.pieces(_LOOK_SECONDS):
                    waiting += piece
                    if len(waiting) >= _DISK_CHUNK:
                        claim(len(waiting))
                        await asyncio.to_thread(file.write, bytes(waiting))
                        waiting.clear()
                claim(len(waiting))
                await asyncio.to_thread(file.write, bytes(waiting))

    async def journal(self, after: int, *, wait: bool) -> bytes:
        """The events after a position, as JSON; with `wait` as soon as there are any. Raises: AgentUnavailable."""
        target, seconds = f"/journal?after={after}&wait={int(wait)}", _JOURNAL_SECONDS if wait else _CALL_SECONDS
        async with self._call("GET", target, seconds=seconds, limit=_JOURNAL_BYTES) as answer:
            if answer.status != 200:
                raise AgentUnavailable(f"the agent did not give its journal: {answer.status}")
            return await answer.read()

    async def killed(self, pid: int) -> None:
        """Tell the sandbox that one of its processes was killed for want of memory. Raises: AgentUnavailable."""
        await self._tell(f"/memory?killed={pid}", _CALL_SECONDS)

    async def freeze(self, timeout: float) -> None:
        """Tell the sandbox that its connections are about to be cut for a snapshot. Raises: AgentUnavailable."""
        await self._tell("/freeze", timeout)

    async def unfreeze(self, timeout: float) -> None:
        """Tell it that it goes on, with processes that `save_disk` has stopped; nothing if it was not frozen. Raises: AgentUnavailable."""
        await self._tell("/unfreeze", timeout)

    async def _tell(self, target: str, seconds: float, content: bytes = b"") -> None:
        status, reason = await self._post(target, seconds, content)
        if status == 404 and self.secret.swap():
            status, reason = await self._post(target, seconds, content)
        if status != 204:
            raise AgentUnavailable(f"the sandbox's agent refused {target}: {status} {_shown(reason)}")
        self.secret.confirmed()

    async def _post(self, target: str, seconds: float, content: bytes) -> tuple[int, bytes]:
        """The status of a call, and the reason if that is a bad one. Raises: AgentUnavailable."""
        headers = {"Content-Type": "application/json"} if content else {}
        async with self._call(
            "POST", target, seconds=seconds, limit=_CALL_BYTES, headers=headers, content=content
        ) as answer:
            return answer.status, b"" if answer.status == 204 else await answer.read()

    async def start(self, command: str, *, user: str, tag: str | None = None, seconds: float = _CALL_SECONDS) -> int:
        """Start a shell command that goes on after this call; returns its pid. Raises: AgentUnavailable."""
        async with self._events(command, user, seconds, tag) as found:
            async for event in found:
                if "start" in event:
                    return expect(expect(event["start"], dict).get("pid"), int)
        raise AgentUnavailable(f"{command!r} did not start")

    async def run(self, command: str | Sequence[str], *, user: str, seconds: float = _RUN_SECONDS) -> tuple[int, str]:
        """Run a shell command, or a program with its arguments, to its end; returns exit code and output, of that the last MiB.

        After `seconds` it is left alone, running. Raises: AgentUnavailable.
        """
        kept = bytearray()

        def take(_name: str, chunk: bytes) -> None:
            kept.extend(chunk)
            if len(kept) > 2 * _KEPT_BYTES:
                del kept[:-_KEPT_BYTES]

        code = await self.follow(command, user=user, output=take, seconds=seconds)
        return code, kept[-_KEPT_BYTES:].decode(errors="replace")

    async def follow(
        self,
        command: str | Sequence[str],
        *,
        user: str,
        output: Callable[[str, bytes], None],
        seconds: float,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        tag: str | None = None,
    ) -> int:
        """Run a program to its end, giving what it prints to `output` ("stdout" or "stderr") as it comes; returns its exit code.

        Going away, after `seconds` at the latest, leaves it running. Raises: AgentUnavailable.
        """
        async with self._events(command, user, seconds, tag, env, cwd) as found:
            async for event in found:
                for name, chunk in printed(event):
                    output(name, chunk)
                if (code := exit_code(event)) is not None:
                    return code
        raise AgentUnavailable(f"{command!r} ended without a status")

    @asynccontextmanager
    async def _events(
        self,
        command: str | Sequence[str],
        user: str,
        seconds: float,
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
        async with self._call(
            "POST", "/process.Process/Start", seconds=seconds, limit=_STREAM_BYTES, headers=headers, content=body
        ) as answer:
            if answer.status != 200:
                raise AgentUnavailable(f"the agent refused {command!r}: {answer.status}")
            async with aclosing(events(answer, repr(command))) as found:
                yield found


def _shown(reason: bytes) -> str:
    return reason[:500].decode(errors="replace")
