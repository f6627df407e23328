"""Have the code interpreter, where there is one, speak Jupyter's protocol on port 8888 (architecture, The protocol of 2024)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)
SOCKET = Path("/run/sandpit/interpreter/jupyter.sock")
_WAIT_S = 20.0
"""Clients of 2024 wait longer for a connection (legacy-protocol 1.5)."""


async def open_port() -> None:
    """Return when the port is open; at once without an interpreter. One that does not answer is somebody else's to mend."""
    if not SOCKET.exists():
        return
    try:
        async with asyncio.timeout(_WAIT_S):
            reader, writer = await asyncio.open_unix_connection(str(SOCKET))
            try:
                if (answer := await reader.readline()) != b"open\n":
                    _LOG.warning("the interpreter did not open its Jupyter port: %s", answer.decode(errors="replace"))
            finally:
                writer.close()
    except (OSError, TimeoutError) as problem:
        _LOG.warning("the interpreter was not asked for its Jupyter port: %r", problem)
