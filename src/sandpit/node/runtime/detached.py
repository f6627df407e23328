"""Running a runtime's command that leaves a container behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from sandpit import programs
from sandpit.node.runtime.base import RuntimeFailed

_LAST_CHARACTERS = 2000
"""Of the output, in messages."""


async def run_detached(argv: Sequence[str], what: str, log: Path, timeout: float) -> None:
    """Run a command to its end, with output to a file: a detached container keeps its descriptors for life.

    Cancelled, or after `timeout` seconds, the command is killed. Raises: RuntimeFailed, OSError.
    """
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = await programs.start(*argv, stdout=descriptor, stderr=descriptor, new_session=True)
    finally:
        os.close(descriptor)
    try:
        async with asyncio.timeout(timeout):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        raise RuntimeFailed(f"{what} did not finish within {timeout:g} s: {_output(log)}") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if status:
        raise RuntimeFailed(f"{what} failed with status {status}: {_output(log)}")


def _output(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_LAST_CHARACTERS:] or "(no output)"
