"""Running a runtime's command that leaves a container behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence

from sandpit.lib import programs
from sandpit.node.runtime.base import RuntimeFailed
from sandpit.node.runtime.boundedlog import BoundedLog


async def run_detached(argv: Sequence[str], what: str, log: BoundedLog, timeout: float, stdin: bytes = b"") -> None:
    """Run a command to its end, with output to `log`: a detached container keeps its descriptors for life.

    It finds `stdin` on its standard input, which must fit into a pipe (4096 bytes, pipe(7)).

    Cancelled, or after `timeout` seconds, the command is killed. Raises: RuntimeFailed, OSError.
    """
    given = _pipe_with(stdin) if stdin else subprocess.DEVNULL
    try:
        process = await programs.start(
            *argv, stdin=given, stdout=log.descriptor, stderr=log.descriptor, new_session=True
        )
    finally:
        if stdin:
            os.close(given)
    try:
        async with asyncio.timeout(timeout):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        raise RuntimeFailed(f"{what} did not finish within {timeout:g} s: {log.last_words()}") from None
    except asyncio.CancelledError:
        process.kill()
        raise
    if status:
        raise RuntimeFailed(f"{what} failed with status {status}: {log.last_words()}")


def _pipe_with(content: bytes) -> int:
    """The reading end of a pipe that holds `content` and then ends."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
        pipe.write(content)
    return reading
