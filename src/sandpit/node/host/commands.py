"""Running the host's tools: their time limits and their errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.lib import programs

_CHUNK = 1 << 20
_MOST_COMPLAINTS = 64 << 10
_MOST_OUTPUT = 16 << 20
"""Of a tool whose output is read as a whole: some of them repeat what registries and guests say."""


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

    Raises: CommandFailed when it exits non-zero, prints more than 16 MiB or takes longer than `timeout` seconds (it is then killed).
    """
    process = await programs.start(
        *command,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await _talk(process, stdin)
    except TimeoutError:
        raise CommandFailed(command, None, "") from None
    except _TooMuch:
        raise CommandFailed(command, None, f"it printed more than {_MOST_OUTPUT >> 20} MiB") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CommandFailed(command, process.returncode, (err or out).decode(errors="replace"))
    return out.decode(errors="replace")


class _TooMuch(Exception):
    """A tool prints more than is read."""


async def _talk(process: asyncio.subprocess.Process, stdin: str | None) -> tuple[bytes, bytes]:
    """Give a process its input, and return its output and complaints when it has ended. Raises: _TooMuch."""
    assert process.stdout is not None
    assert process.stderr is not None
    given = _give(process.stdin, stdin or "")
    out, err, _, _ = await asyncio.gather(_read(process.stdout), _read(process.stderr), given, process.wait())
    return out, err


async def _give(stream: asyncio.StreamWriter | None, text: str) -> None:
    if stream is not None:
        stream.write(text.encode())
        with contextlib.suppress(OSError):  # it need not read all of it
            await stream.drain()
        stream.close()


async def _read(stream: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while chunk := await stream.read(_CHUNK):
        found += chunk
        if len(found) > _MOST_OUTPUT:
            raise _TooMuch
    return bytes(found)


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
