"""The log of a build while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandpit.store.models import BuildLog
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

LEVELS = ("debug", "info", "warn", "error")
_MESSAGE = 8192
_TOTAL = 16 << 20
"""Characters of all lines together."""


@dataclass(slots=True)
class LiveLog:
    """Lines as they come. Beyond `most` lines of output only what is worse than information is taken."""

    build_id: str
    most: int
    lines: list[BuildLog] = field(default_factory=list)
    written: int = 0
    """How many of them are in the store."""
    _size: int = 0
    _full: bool = False

    def __call__(self, message: str, level: str = "info", step: str | None = None) -> None:
        """See BuildReport."""
        if (len(self.lines) >= self.most or self._size >= _TOTAL) and level in ("debug", "info"):
            if not self._full:
                self._full = True
                self._add("the log is full: the rest of the output is left out", "warn", step)
            return
        self._add(message, level, step)

    def _add(self, message: str, level: str, step: str | None) -> None:
        text = message[:_MESSAGE].replace("\0", "\N{REPLACEMENT CHARACTER}")
        line = BuildLog(
            build_id=self.build_id, number=len(self.lines), timestamp=utc_now(), level=level, step=step, message=text
        )
        self.lines.append(line)
        self._size += len(text)


def selected(lines: Sequence[BuildLog], offset: int, limit: int, level: str | None) -> list[BuildLog]:
    """`limit` lines from the `offset`-th on, of those that are of a level or worse."""
    if level in LEVELS:
        wanted = LEVELS[LEVELS.index(level) :]
        lines = [line for line in lines if line.level in wanted]
    return list(lines[offset : offset + limit])
