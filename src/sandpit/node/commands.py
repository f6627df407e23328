"""Running the host's tools: their time limits and their errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from sandpit import programs
from sandpit.node.contract import NodeError

_CHUNK = 1 << 20
_MOST_COMPLAINTS = 64 << 10


class CommandFailed(NodeError):
    """A host tool answered with an error."""

    def __init__(self, command: Sequence[str], status: int | None, output: str) -> None:
        """Keep the command's name, its exit status (None after a time-out) and what it printed."""
        what = "did not finish in time" if status is None else f"failed with status {status}"
        super().__init__(f"{' '.join(command[:6])} {what}: {output.strip()[-2000:] or '(no output)'}")
        self.status = status
        self.output = output


def tied(script: str, *arguments: str, propagation: str = "private") -> list[str]:
    """A shell script in a mount namespace of its own, as a command that dies with this process.

    A runtime's command that goes on without us would bring a container to life that the next server has tidied up already.
    """
    guard = f'[ "$PPID" = {os.getpid()} ] || exit 1; unset PWD; '  # we died before the kernel was told to tell
    unshare = ("unshare", "--mount", "--propagation", propagation)
    return ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-c", guard + script, "sh", *arguments]


async def run(*command: str, stdin: str | None = None, timeout: float = 30.0) -> str:
    """Run a host tool to its end and return its standard output.

    Raises: CommandFailed when it exits non-zero or takes longer than `timeout` seconds (it is then killed).
    """
    process = await programs.start(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    except TimeoutError:
        raise CommandFailed(command, None, "") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CommandFailed(command, process.returncode, (err or out).decode(errors="replace"))
    return out.decode(errors="replace")


async def save(*command: str, target: Path, limit: int, timeout: float) -> None:
    """Run a tool to its end, with standard output to a new file.

    Raises: CommandFailed when it exits non-zero, prints more than `limit` bytes or takes longer than `timeout` seconds (it is killed
    then); OSError.
    """
    process = await programs.start(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.ensure_future(process.stderr.read(_MOST_COMPLAINTS))
    try:
        async with asyncio.timeout(timeout):
            with target.open("xb", buffering=0) as file:
                size = 0
                while chunk := await process.stdout.read(_CHUNK):
                    size += len(chunk)
                    if size > limit:
                        raise CommandFailed(command, None, f"it gave more than {limit} bytes")
                    await asyncio.to_thread(file.write, chunk)
            status = await process.wait()
            said = (await complaints).decode(errors="replace")
    except TimeoutError:
        raise CommandFailed(command, None, "") from None
    finally:
        complaints.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status:
        raise CommandFailed(command, status, said)
