"""A program in a terminal, used as a person does: it types, reads what is shown, and changes the window's size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 30.0


class Terminal:
    """The program is ended with the block."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, rows: int = 24
    ) -> None:
        self._command, self._environment = command, environment
        self._size = rows, columns
        self.text = ""
        """Everything that was shown."""

    def __enter__(self) -> Terminal:
        self._fd, theirs = pty.openpty()
        self._set_size()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *self._command], env={**self._environment, "TERM": "xterm-256color"},
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)  # hangs up: what is left of the session ends

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def resize(self, *, columns: int, rows: int) -> None:
        self._size = rows, columns
        self._set_size()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in what is shown, now or later."""
        deadline = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.text)):
            assert self._read(deadline - time.monotonic()), f"{pattern!r} was never shown:\n{self.text}"
        return match

    def wait(self) -> int:
        """The exit status of the program."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        """Take what comes next; False at the end, or when nothing came in time."""
        if not select.select([self._fd], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the program and its children have closed the terminal
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def _set_size(self) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", *self._size, 0, 0))
