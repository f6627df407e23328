"""Calls to a sandbox's kernel over its control socket: which processes there are, and the end of one of them.

`runsc` has commands for both (`trace procfs`, `kill --pid`), each a Go program of 30 MB to be started on a machine whose memory runs out.
The socket speaks JSON: `{"method": M, "arg": A}`, answered by `{"success": B, "err": E, "result": R}`; a connection that is closed in one
direction is closed by the other side after the answer. The sentry is not believed: answers have a limit in bytes and in time, and are
read with flat memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sandpit.node.guests.log import clean
from sandpit.node.runtime.base import GuestProcess, RuntimeFailed

_SECONDS = 5.0
_ANSWER_BYTES = 64 << 20
"""About 1,000 processes with 300 mappings each, which are most of what is told of them."""
_CHUNK = 256 << 10
_STATUS = b'"status":'
"""What follows in a process's description is an object of its name, numbers and sizes. No text can hold these bytes: quotation marks in
texts have a backslash before them."""
_STATUS_BYTES = 1024
_MOST_PROCESSES = 32768
_NAME = 15
_KILL = 9
_DECODER = json.JSONDecoder()


async def processes(socket: Path) -> list[GuestProcess]:
    """All processes but the first. Raises: RuntimeFailed."""
    found: list[GuestProcess] = []
    rest = b""
    async with _called(socket, "containerManager.ProcfsDump", {}) as answer:
        async for chunk in answer:
            rest += chunk
            complete = max(0, len(rest) - len(_STATUS) - _STATUS_BYTES)
            found += _read(rest, complete)
            rest = rest[complete:]
            if len(found) > _MOST_PROCESSES:
                raise RuntimeFailed("the sandbox's kernel tells of more processes than there can be")
    found += _read(rest, len(rest))
    return [process for process in found if process.pid > 1]


async def kill(socket: Path, container_id: str, pid: int) -> None:
    """SIGKILL for one process; one that has ended is no error. Raises: RuntimeFailed."""
    argument = {"CID": container_id, "Signo": _KILL, "PID": pid, "Mode": 0}
    async with _called(socket, "containerManager.Signal", argument) as answer:
        async for _ in answer:
            pass


def _read(text: bytes, end: int) -> Iterator[GuestProcess]:
    """The processes whose status begins before `end`."""
    at = text.find(_STATUS)
    while 0 <= at < end:
        start = at + len(_STATUS)
        with suppress(ValueError, RecursionError):
            status, _ = _DECODER.raw_decode(text[start : start + _STATUS_BYTES].decode(errors="replace"))
            if (process := _process(status)) is not None:
                yield process
        at = text.find(_STATUS, start)


def _process(status: Any) -> GuestProcess | None:
    if not isinstance(status, dict):
        return None
    # Sizes of nought are left out.
    pid, name, resident = status.get("pid"), status.get("comm", ""), status.get("vm_rss", 0)
    if type(pid) is not int or type(resident) is not int or not isinstance(name, str) or min(pid, resident) < 0:
        return None
    return GuestProcess(pid, clean(name)[:_NAME], resident << 10)


@asynccontextmanager
async def _called(socket: Path, method: str, argument: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Send a call and give the answer in pieces. Raises: RuntimeFailed."""
    try:
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=_CHUNK)
            try:
                writer.write(json.dumps({"method": method, "arg": argument}).encode())
                writer.write_eof()
                yield _pieces(reader, method)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise RuntimeFailed(f"the sandbox's kernel did not answer {method} within {_SECONDS:g} s") from None
    except OSError as error:
        raise RuntimeFailed(f"the sandbox's kernel does not answer {method}: {error}") from error


async def _pieces(reader: asyncio.StreamReader, method: str) -> AsyncIterator[bytes]:
    size = 0
    while chunk := await reader.read(_CHUNK):
        size += len(chunk)
        if size > _ANSWER_BYTES:
            raise RuntimeFailed(f"the sandbox's kernel answers {method} with more than {_ANSWER_BYTES >> 20} MiB")
        yield chunk
    if not size:
        raise RuntimeFailed(f"the sandbox's kernel did not answer {method}")
