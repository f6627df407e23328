"""Who hears of a process that was killed for want of memory: the sandbox's log, the server's, and the sandbox's agent."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence

from sandpit.contract.node import GuestEvent, GuestEvents
from sandpit.lib.tasks import Tasks
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.runtime.base import GuestProcess
from sandpit.node.sandboxes.launcher import Sandbox

log = logging.getLogger(__name__)

LOGGER = "sandbox"
"""What the server itself says about a sandbox: no guest can write lines of this logger."""


class MemoryReport:
    """Tells of killed processes."""

    def __init__(self, tasks: Tasks, callbacks: Sequence[GuestEvents]) -> None:
        """`callbacks` take the events of all sandboxes; `tasks` is where agents are told. Both belong to the caller."""
        self._tasks = tasks
        self._callbacks = callbacks

    def killed(self, sandbox: Sandbox, process: GuestProcess) -> None:
        """A process of a sandbox was killed. A storm of them is not told one by one."""
        if sandbox.sandbox_id is None or not sandbox.memory_reports.afford(1):
            return
        text = f"out of memory: killed process {process.pid} ({process.name}), {_size(process.resident)}"
        log.info("sandbox %s: %s", sandbox.sandbox_id, text)
        fields = {"pid": str(process.pid), "process": process.name, "memoryMB": str(sandbox.image.memory_mb)}
        event = GuestEvent(time.time_ns() // 1000, "warn", LOGGER, text, fields)
        for callback in self._callbacks:
            callback(sandbox.sandbox_id, [event])
        self._tasks.spawn(_told(sandbox, process.pid), f"a killed process of {sandbox.sandbox_id}")


async def _told(sandbox: Sandbox, pid: int) -> None:
    """Agents of earlier servers, and those that do not answer, need not know. No connection may be open while a checkpoint is taken."""
    if sandbox.busy.locked():
        return
    with contextlib.suppress(AgentUnavailable):
        await sandbox.agent.killed(pid)


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
