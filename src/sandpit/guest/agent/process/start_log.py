"""What the template's start command writes, kept for those who ask later: as text (legacy-protocol 3.8), and as the events that it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.guest.agent.process.follower import Follower
from sandpit.guest.agent.process.processes import data_event

if TYPE_CHECKING:
    from sandpit.guest.agent.process.processes import Process

TAG = "start_cmd"
"""By which the node starts it (`node.sandboxes.start_command.TAG`)."""
MAX_BYTES = 1 << 20
"""Of each file: a server's log must not fill the sandbox's disk."""


class Kept:
    """A file that loses its older half when it grows too large."""

    def __init__(self, path: Path) -> None:
        self.path, self.older = path, path.with_name(f"{path.name}.1")

    def clear(self) -> None:
        """Raises: OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.older.unlink(missing_ok=True)

    def add(self, data: bytes) -> None:
        """A full disk, or a file that somebody took away, is no matter: the program goes on."""
        with contextlib.suppress(OSError):
            if self.path.exists() and self.path.stat().st_size >= MAX_BYTES:
                self.path.replace(self.older)
            with self.path.open("ab") as file:
                file.write(data)

    def lines(self) -> list[bytes]:
        """What is left of it."""
        content = b""
        for path in (self.older, self.path):
            with contextlib.suppress(OSError):
                content += path.read_bytes()
        return content.splitlines()


TEXT = Kept(Path("/run/sandpit/start_cmd.log"))
_EVENTS = Kept(Path("/run/sandpit/start_cmd.events"))


class StartLog:
    """Keeps what one process writes."""

    def __init__(self, process: Process) -> None:
        """Raises: OSError."""
        self.process = process
        for kept in (TEXT, _EVENTS):
            kept.clear()
        self._follower = Follower(process, self)

    def past(self) -> list[bytes]:
        """The events that a subscriber of this moment comes too late for."""
        return [*_EVENTS.lines(), *self._follower.waiting]

    async def output(self, stream: str, data: bytes) -> None:
        TEXT.add(data)
        _EVENTS.add(data_event(stream, data) + b"\n")

    async def end(self, _exit_code: int) -> None:
        """What it wrote stays."""
