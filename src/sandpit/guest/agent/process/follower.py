"""Listening to a process from inside the agent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sandpit.guest.agent.process.processes import Process

_SILENCE_S = 3600.0
"""Between two signs of life that nobody is sent."""


class Listener(Protocol):
    """What is done with a process's output and end."""

    async def output(self, stream: str, data: bytes) -> None:
        """Bytes of `stdout`, `stderr` or `pty`."""

    async def end(self, exit_code: int) -> None:
        """After the last output; -1 when a signal ended it."""


class Follower:
    """Listens to one process until its end."""

    def __init__(self, process: Process, listener: Listener) -> None:
        self.process = process
        self._listener = listener
        # At once: what a process writes while nobody subscribes is dropped.
        self._subscriber = process.subscribe(_SILENCE_S)
        self.task = asyncio.create_task(self._follow())

    @property
    def waiting(self) -> list[bytes]:
        """The events of output that the listener has not been told yet."""
        return self._subscriber.waiting_data

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._subscriber.events()) as events:
            async for line in events:
                event = json.loads(line)["event"]
                for stream, text in event.get("data", {}).items():
                    await self._listener.output(stream, base64.b64decode(text))
                if "end" in event:
                    await self._listener.end(int(event["end"]["exitCode"]))
