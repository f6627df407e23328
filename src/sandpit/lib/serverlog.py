"""The server's log: one line a record, a share for each tenant, files that rotate (docs/logs.md).

What is logged holds texts of requests and guests. So control characters and line breaks are escaped, and a line has a greatest length:
nobody forges a line, or moves the cursor of a terminal. What is logged on behalf of a tenant comes out of that tenant's allowance; the
rest is left out and counted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pathlib import Path

LINE_CHARACTERS = 2000
"""Of a record's message."""
TRACE_CHARACTERS = 16_000
"""Of an error's traceback, whose lines are indented."""
ALLOWANCE_BYTES = 64 * 1024
"""What a tenant may have written at once, or a place in the code for nobody in particular."""
REFILL_BYTES = 64.0
"""What comes back of it in a second: 5.5 MB a day."""
MAX_SUBJECTS = 4096
"""Allowances that are remembered; beyond, those that are full again are forgotten, and all the rest share one."""
TOLD_SECONDS = 60.0
"""How long lines that were left out wait for their number to be written, if no other line of the same tenant does it."""

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SHARED = "others"
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SANDBOX = re.compile(r"\bi[a-z0-9]{20}\b")

tenant: ContextVar[str | None] = ContextVar("tenant", default=None)
"""The team on whose behalf the current task runs; tasks that it starts inherit it."""


def printable(text: str, limit: int) -> str:
    """`text` as one line of at most some more than `limit` characters: escapes for what moves cursors, its middle left out if need be."""
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]} [{len(text) - limit} characters left out] {text[head - limit :]}"
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class LineFormatter(logging.Formatter):
    """A record is one line, its traceback indented lines: none of them can look like the beginning of a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message, LINE_CHARACTERS)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    if len(text) > TRACE_CHARACTERS:
        text = f"{text[: TRACE_CHARACTERS // 2]}\n[...]\n{text[-TRACE_CHARACTERS // 2 :]}"
    return "\n".join(f"    {printable(line, LINE_CHARACTERS)}" for line in text.split("\n"))


@dataclass(slots=True)
class _Allowance:
    left: float
    since: float
    dropped: int = 0

    def take(self, cost: int, now: float) -> bool:
        self.left = min(ALLOWANCE_BYTES, self.left + (now - self.since) * REFILL_BYTES)
        self.since = now
        if self.left < cost:
            self.dropped += 1
            return False
        self.left -= cost
        return True


class FairShare(logging.Filter):
    """Leaves out what is beyond the allowance of a tenant, or of a place in the code that logs on nobody's behalf."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.tenant_of: Callable[[str], str | None] = lambda _sandbox_id: None
        """Whose a running or paused sandbox is."""
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}
        self._told = clock()
        self._lock = threading.Lock()
        """Threads log, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written; it may get a remark on what was left out before it."""
        with self._lock:
            return self._may(record, self._clock())

    def _may(self, record: logging.LogRecord, now: float) -> bool:
        subject = self._subject(record)
        allowance = self._allowance(subject, now)
        if not allowance.take(_cost(record), now):
            return False
        if allowance.dropped:
            self._report(record, subject, allowance)
        elif now - self._told > TOLD_SECONDS:
            self._told = now
            for other, waiting in self._allowances.items():
                if waiting.dropped and waiting.take(200, now):
                    self._report(record, other, waiting)
                    break
        return True

    def _subject(self, record: logging.LogRecord) -> str:
        if (team := tenant.get()) is not None:
            return f"team {team}"
        for argument in record.args if isinstance(record.args, tuple) else ():
            found = _SANDBOX.search(argument) if isinstance(argument, str) else None
            if found is not None and (owner := self.tenant_of(found[0])) is not None:
                return f"team {owner}"
        return f"{record.name}:{record.lineno}"

    def _allowance(self, subject: str, now: float) -> _Allowance:
        if (known := self._allowances.get(subject)) is not None:
            return known
        if len(self._allowances) >= MAX_SUBJECTS:
            full_again = now - ALLOWANCE_BYTES / REFILL_BYTES
            for name in [
                name for name, kept in self._allowances.items() if kept.since < full_again and not kept.dropped
            ]:
                del self._allowances[name]
            if len(self._allowances) >= MAX_SUBJECTS:
                subject = _SHARED
        return self._allowances.setdefault(subject, _Allowance(ALLOWANCE_BYTES, now))

    @staticmethod
    def _report(record: logging.LogRecord, subject: str, allowance: _Allowance) -> None:
        """Say in this record how many were left out before it."""
        record.msg = f"{record.getMessage()} [{allowance.dropped} lines of {subject} were left out before this one]"
        record.args, allowance.dropped = (), 0


def _cost(record: logging.LogRecord) -> int:
    """About what a record takes up in the file."""
    return min(len(record.getMessage()), LINE_CHARACTERS) + 100 + (TRACE_CHARACTERS // 4 if record.exc_info else 0)


class RotatingLog(RotatingFileHandler):
    """The log of a server in the background: also its standard output and error, which follow to the new file. For the owner alone."""

    def __init__(self, path: Path, file_bytes: int, files: int) -> None:
        super().__init__(path, maxBytes=file_bytes, backupCount=files - 1, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> TextIO:  # type: ignore[override]
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for standard in (sys.__stdout__, sys.__stderr__):
            if standard is not None:
                os.dup2(descriptor, standard.fileno())
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def configure(level: str, handler: logging.Handler) -> FairShare:
    """Have all loggers of this process write to `handler`."""
    share = FairShare()
    handler.setFormatter(LineFormatter(_FORMAT))
    handler.addFilter(share)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic.runtime", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return share
