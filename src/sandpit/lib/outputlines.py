"""Output that comes in pieces, passed on in lines. Its printer is code in a sandbox: lines and their number are bounded."""

from __future__ import annotations

from collections.abc import Callable

LINE_BYTES = 4096
MOST_LINES = 100_000
"""More than any log takes (`build.log_lines` is 20,000): to split the rest of a flood into lines would only take time."""
TAIL = 2000
"""Characters."""


class OutputLines:
    """The output of one command."""

    def __init__(self, take: Callable[[str, str], None]) -> None:
        """`take` gets the name of the stream and a line."""
        self._take = take
        self._open: dict[str, bytes] = {}
        self._lines = 0
        self.tail = ""
        """The end of all that was printed."""

    def add(self, name: str, chunk: bytes) -> None:
        """Take a piece."""
        self.tail = (self.tail + chunk[-4 * TAIL :].decode(errors="replace"))[-TAIL:]
        if self._lines >= MOST_LINES:
            return
        *lines, rest = (self._open.get(name, b"") + chunk).split(b"\n", MOST_LINES - self._lines)
        self._open[name] = rest if len(rest) <= LINE_BYTES else b""
        for line in lines if len(rest) <= LINE_BYTES else [*lines, rest]:
            self._tell(name, line)
        if self._lines >= MOST_LINES:
            self._open.clear()
            self._take(name, f"more than {MOST_LINES} lines: the rest of the output is left out")

    def end(self) -> None:
        """Pass on what has no end of line."""
        for name, line in self._open.items():
            if line:
                self._tell(name, line)

    def _tell(self, name: str, line: bytes) -> None:
        self._lines += 1
        self._take(name, line[:LINE_BYTES].decode(errors="replace").rstrip("\r"))
