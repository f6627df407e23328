"""What the template's start command writes, kept for those who ask later (legacy-protocol 3.8)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.guest.agent.follower import Follower

if TYPE_CHECKING:
    from sandpit.guest.agent.processes import Process

TAG = "start_cmd"
"""By which the node starts it (`node.start_command.TAG`)."""
LOG = Path("/run/sandpit/start_cmd.log")
OLDER = LOG.with_suffix(".log.1")
MAX_BYTES = 1 << 20
"""Of each of the two files: a server's log must not fill the sandbox's disk."""


class StartLog:
    """Writes both streams of one process to the file, as a journal does."""

    def __init__(self, process: Process) -> None:
        LOG.parent.mkdir(parents=True, exist_ok=True)
        LOG.write_bytes(b"")
        OLDER.unlink(missing_ok=True)
        self._follower = Follower(process, self)

    async def output(self, _stream: str, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk, or a file that somebody took away: the program goes on
            if LOG.exists() and LOG.stat().st_size >= MAX_BYTES:
                LOG.replace(OLDER)
            with LOG.open("ab") as file:
                file.write(data)

    async def end(self, _exit_code: int) -> None:
        """What it wrote stays."""
