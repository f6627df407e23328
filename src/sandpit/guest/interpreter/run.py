"""One execution in a kernel: what was heard of it so far."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.interpreter import events
    from sandpit.guest.interpreter.outbox import Outbox


class Outcome(enum.Enum):
    """How an execution ended."""

    FINISHED = enum.auto()
    ABORTED = enum.auto()
    """The kernel dropped the request without running it."""
    DIED = enum.auto()
    """The kernel's process ended first."""
    OUT_OF_MEMORY = enum.auto()
    """The same, because it was killed for want of memory."""


class Run:
    """One execution in a kernel."""

    def __init__(self, msg_id: str, outbox: Outbox | None, render: events.Render) -> None:
        self.msg_id = msg_id
        self.outbox = outbox
        self.render = render
        self.started = False
        self.replied = False
        self.idle = False
        self.flush_id = ""
        """The request behind this one that marks the end of its output; empty when there is none, or the mark has come."""
        self.aborted = False
        self.failure: Mapping[str, Any] | None = None
        """The kernel's reply, if that says that the execution failed."""
        self.failure_told = False
        self.cancelled = False
        self.heard = 0.0
        """When the last message came, in the event loop's time."""
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def finish(self, outcome: Outcome) -> None:
        """Set the outcome; the first one counts."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def tell_failure(self, words: str) -> None:
        """Say that the code failed if the kernel has said so in its reply alone: Deno, when code cannot be parsed or a module loaded.

        `words`: what its process wrote meanwhile, which may tell why.
        """
        if self.failure is None or self.failure_told or self.outbox is None or self.outcome.done():
            return
        told = {name: self.failure[name] for name in ("ename", "evalue", "traceback") if self.failure.get(name)}
        content = {"ename": "Error", "evalue": "", "traceback": [words]} | told
        for part in self.render({"msg_type": "error", "content": content}):
            self.outbox.put_nowait(part)
