"""The `sandpit` command in a process that kills itself at the n-th change it makes to anything outside of it.

usage: python -P tests/abuse/mortal_server.py FILE ARGUMENT...

FILE holds the number. What was changed before is listed in FILE.log. A change is a file that is opened for writing, renamed, removed or
linked, a directory, a mount, a socket, a statement of SQL that writes, and a program that is started.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate", "os.utime",
    "socket.bind", "subprocess.Popen", "os.posix_spawn",
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_READS = ("SELECT", "PRAGMA", "--")


class Fate:
    """Counts, and ends this process."""

    def __init__(self, file: Path) -> None:
        self._left = int(file.read_text())
        self._log = os.open(f"{file}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._lock = threading.Lock()
        self._writing = False

    def step(self, what: str) -> None:
        """A change is about to be made."""
        with self._lock:
            self._left -= 1
            os.write(self._log, f"{what}\n"[:300].encode())
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook (PEP 578)."""
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITES
            if (
                writes
                and isinstance(path, str | bytes | os.PathLike)
                and not str(os.fsdecode(path)).startswith("/dev/")
            ):
                self.step(f"open {os.fsdecode(path)} {mode}")
        elif event in _CHANGES:
            self.step(f"{event} {arguments[:2]}")

    def connect(self, original: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = original(*arguments, **options)
            connection.set_trace_callback(self.statement)
            return connection

        return connected

    def statement(self, text: str) -> None:
        if not text.lstrip().upper().startswith(_READS):
            self.step(f"sql {' '.join(text.split())}")

    def before(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.step(f"{name} {arguments[:3]}")
            return function(*arguments, **options)

        return counted


def main() -> None:
    fate = Fate(Path(sys.argv.pop(1)))
    from sandpit.lib import mounts

    for name in ("mount", "_bind", "unmount"):
        setattr(mounts, name, fate.before(name, getattr(mounts, name)))
    asyncio.create_subprocess_exec = fate.before("run", asyncio.create_subprocess_exec)
    sqlite3.connect = fate.connect(sqlite3.connect)  # type: ignore[assignment]
    sqlite3.dbapi2.connect = sqlite3.connect
    from sandpit.cli.main import main as sandpit

    sys.addaudithook(fate.hook)
    sandpit()


if __name__ == "__main__":
    main()
