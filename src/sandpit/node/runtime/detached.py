"""Running a runtime's command that leaves a container behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sandpit.node.boundedlog import BoundedLog
from sandpit.node.runtime.base import RuntimeFailed


async def run_detached(argv: Sequence[str], what: str, log: BoundedLog, timeout: float) -> None:
    """Run a command to its end, with output to `log`: a detached container keeps its descriptors for life.

    Cancelled, or after `timeout` seconds, the command is killed. Raises: RuntimeFailed, OSError.
    """
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=log.descriptor, stderr=log.descriptor, start_new_session=True
    )
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
