"""Whether a kernel was killed because the sandbox was out of memory: the agent leaves a file for each such process.

The host kills first and tells afterwards, so the file comes a moment after the kernel's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

KILLED = Path("/run/sandpit/out-of-memory")
"""Where the agent leaves them, named by process id."""
_SECONDS = 1.5
_LOOK_SECONDS = 0.02


async def by_want_of_memory(pid: int, started: float, directory: Path = KILLED) -> bool:
    """Whether that has ended a process which was started at a time (Unix seconds); waits for the word if there may be some."""
    file, deadline = directory / str(pid), time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            fresh = file.stat().st_mtime >= started - 1  # not of an earlier process with this number
            file.unlink()
            if fresh:
                return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False
