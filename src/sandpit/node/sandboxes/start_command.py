"""A template's start command while its snapshot is made: its output is told, and its failure is the build's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sandpit.contract.errors import NodeError
from sandpit.lib.outputlines import OutputLines

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sandpit.node.sandboxes.launcher import Sandbox

T = TypeVar("T")
TAG = "start_cmd"

Report = Callable[[str], None]
"""Takes a line about a template's start command."""


class StartCommand:
    """A start command whose output is told line by line, for as long as somebody follows it."""

    def __init__(self, report: Report) -> None:
        """`report` takes the lines."""
        self._lines = OutputLines(lambda name, line: report(f"[start] [{name}]: {line}"))

    async def follow(self, sandbox: Sandbox, command: str, user: str, seconds: float) -> int:
        """Start it; returns its exit code when it ends, within `seconds`. Raises: AgentUnavailable."""
        shell = ["/bin/sh", "-l", "-c", command]
        try:
            return await sandbox.agent.follow(shell, user=user, output=self._lines.add, seconds=seconds, tag=TAG)
        finally:
            self._lines.end()


async def unless_it_fails(start: asyncio.Task[int] | None, step: Coroutine[Any, Any, T]) -> T:
    """What `step` returns, if the start command that `start` follows does not fail before it. Raises: NodeError."""
    task = asyncio.ensure_future(step)
    try:
        if start is not None:
            await asyncio.wait((task, start), return_when=asyncio.FIRST_COMPLETED)
            if start.done() and (code := start.result()) != 0:
                raise NodeError(f"the start command ended with exit status {code}")
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
