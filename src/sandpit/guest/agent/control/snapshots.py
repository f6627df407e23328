"""Control calls around a snapshot: `/freeze` before it, `/unfreeze` when the sandbox goes on, `/disk` to read what it has written.

See architecture, The guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import queue
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse

from sandpit.protocol.changes import Changes
from sandpit.protocol.disk import Upper, pack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import IO

    from starlette.requests import Request

FREEZING = Path("/run/sandpit/freezing")
"""Exists while a snapshot is taken, and in what is restored from it until /init."""
_STOPPED = "processes are stopped"
_CHUNK = 1 << 20
_AHEAD = 4
"""Chunks that wait for the network: memory stays flat."""


async def read(request: Request) -> Response:
    """GET: a tar stream (sandpit.protocol.disk), complete if the body is. With `stop` all processes are stopped first."""
    if Upper.descriptor is None:
        return JSONResponse({"code": 501, "message": "this sandbox's disk is a file of the host"}, status_code=501)
    if request.query_params.get("stop"):
        FREEZING.write_text(_STOPPED)
        _signal_all(signal.SIGSTOP)
    root = Path(f"/proc/self/fd/{Upper.descriptor}")
    return StreamingResponse(_stream(lambda stream: pack(root, stream)), media_type="application/x-tar")


async def look(request: Request) -> Response:
    """POST: what is written from now on is what `changes` gives. With `settle`: end all processes but this one, instead."""
    if request.query_params.get("settle"):
        _signal_all(signal.SIGKILL)
        return Response(status_code=204)
    if Upper.descriptor is None:
        return JSONResponse({"code": 501, "message": "this sandbox's disk is a file of the host"}, status_code=501)
    changes = Changes(Path(f"/proc/self/fd/{Upper.descriptor}"), shimmed=True)
    await asyncio.to_thread(changes.look)
    request.app.state.changes = changes
    return Response(status_code=204)


async def changes(request: Request) -> Response:
    """GET: what was written since the last `look` or `changes`, as a layer (sandpit.protocol.changes), complete if the body is."""
    known: Changes | None = getattr(request.app.state, "changes", None)
    if known is None:
        return JSONResponse({"code": 400, "message": "changes since when? POST first"}, status_code=400)
    return StreamingResponse(_stream(known.write), media_type="application/x-tar")


async def freeze(_request: Request) -> Response:
    """POST: connections are about to be cut, and not by their clients. Until /unfreeze, or the next /init, a file says so."""
    FREEZING.parent.mkdir(parents=True, exist_ok=True)
    FREEZING.touch()
    return Response(status_code=204)


async def unfreeze(_request: Request) -> Response:
    """POST: no snapshot is being taken any more; processes that a read of the disk has stopped go on."""
    if FREEZING.exists() and FREEZING.read_text() == _STOPPED:
        _signal_all(signal.SIGCONT)
    forget_freezing()
    return Response(status_code=204)


def forget_freezing() -> None:
    """Connections that end from now on are ended by their clients."""
    FREEZING.unlink(missing_ok=True)


def _signal_all(number: signal.Signals) -> None:
    if os.getpid() == 1:  # elsewhere these would be other people's processes
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, number)


class _Chunks(io.RawIOBase):
    """A file to write to, whose content another thread takes in chunks."""

    def __init__(self) -> None:
        self.ready: queue.Queue[bytes | BaseException | None] = queue.Queue(_AHEAD)
        self.abandoned = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        while not self.abandoned.is_set():
            with contextlib.suppress(queue.Full):
                self.ready.put(content, timeout=1)
                return len(content)
        raise BrokenPipeError("the reader went away")


async def _stream(write: Callable[[IO[bytes]], object]) -> AsyncIterator[bytes]:
    """Raises what writing raised, so that the body ends without looking complete."""
    chunks = _Chunks()

    def work() -> None:
        end: BaseException | None = None
        try:
            with io.BufferedWriter(chunks, _CHUNK) as stream:
                write(stream)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear of it
            end = error
        if not chunks.abandoned.is_set():
            chunks.ready.put(end)

    packing = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        while (chunk := await asyncio.to_thread(chunks.ready.get)) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
    finally:
        chunks.abandoned.set()
        with contextlib.suppress(queue.Empty):
            while True:
                chunks.ready.get_nowait()
        await packing
