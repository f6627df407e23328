"""The interpreter's ports, held by the agent: between two lives of the interpreter no other process can take them.

The agent binds a port when root first asks for it, over a unix socket that only root may use, and lends the listening socket
(SCM_RIGHTS) to whoever asks from then on. A template without an interpreter never asks, and there the ports are like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from sandpit.guest.agent.control.listeners import Held, hold
from sandpit.protocol import ports

_LOG = logging.getLogger(__name__)
SOCKET = Path("/run/sandpit/ports/lend.sock")
"""Its directory has mode 0700, the socket 0600."""
PORTS = frozenset({ports.INTERPRETER, ports.JUPYTER})
"""What can be lent: the interpreter's, and the one where clients of 2024 look for Jupyter."""
_SECONDS = 5.0
_LONGEST_LINE = 32


class Lender:
    """Answers `open PORT` with a descriptor, `held PORT` the same if the port was asked for before; each a line, and `-REASON` if not."""

    def __init__(self, host: str) -> None:
        """`host` is the address to listen on."""
        self._host = host
        self._held: dict[int, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, path: Path = SOCKET) -> None:
        """Answer from now on. Raises: OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(16)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it went away
            connection = self._listener.accept()[0]
            task = asyncio.get_running_loop().create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError, TimeoutError):
            connection.setblocking(False)
            async with asyncio.timeout(_SECONDS):
                line = await loop.sock_recv(connection, _LONGEST_LINE)
                try:
                    held = self._find(line)
                except (OSError, ValueError) as problem:
                    await loop.sock_sendall(connection, f"-{problem}\n".encode())
                    return
                socket.send_fds(connection, [b"+"], [held.listener.fileno()])

    def _find(self, line: bytes) -> Held:
        """Raises: ValueError, OSError when something else listens there."""
        verb, _, number = line.decode("ascii", "replace").rstrip("\n").partition(" ")
        port = int(number)
        if verb not in ("open", "held") or port not in PORTS:
            raise ValueError("no such request")
        if port not in self._held:
            if verb == "held":
                raise ValueError("nobody has asked for it yet")
            self._held[port] = hold(self._host, port)
        return self._held[port]
