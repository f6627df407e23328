"""What is there before a client of Jupyter's protocol comes: the default kernel's id in a file, and two sockets.

One has the port of 2024 opened; at the other, which is root's, the protocol itself is spoken. What it needs comes with its first client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sandpit.guest.interpreter.ports import borrow, borrowed_before

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from sandpit.guest.interpreter.registry import Registry
    from sandpit.guest.interpreter.settings import Settings

_LOG = logging.getLogger(__name__)
SOCKET = "jupyter.sock"


class Door:
    """Opens the port when the agent says that a client of 2024 is there, and then leaves it open, whatever ends this process."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry, self._settings = registry, settings
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Be there to be asked."""
        await self._publish()
        path = self._settings.runtime_dir / SOCKET
        path.unlink(missing_ok=True)
        asked = await asyncio.start_unix_server(self._answer, str(path))
        local = await self._listen_for_root()
        if (opened := borrowed_before(self._settings.lender, self._settings.jupyter_port)) is not None:
            self._server = await self._serve(opened)
        try:
            yield
        finally:
            for server in filter(None, (asked, local, self._server)):
                server.close()
            path.unlink(missing_ok=True)

    async def _publish(self) -> None:
        """Write down the default kernel, where clients of 2024 read it (legacy-protocol 5.2)."""
        kernel_id = (await self._registry.default("python")).id
        session = {"id": kernel_id, "path": self._settings.default_cwd, "name": "default", "type": "notebook"}
        session_info = session | {"kernel": {"id": kernel_id, "name": "python3"}}
        folder = self._settings.jupyter_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "kernel_id").write_text(kernel_id + "\n")
            (folder / ".session_info").write_text(json.dumps(session_info) + "\n")
        except OSError as problem:
            _LOG.warning("clients of 2024 will not find the default kernel: %s", problem)

    async def _listen_for_root(self) -> asyncio.Server | None:
        """The socket below a directory that nobody else may enter; None where it cannot be made."""
        path = self._settings.jupyter_socket
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.chmod(0o700)
            path.unlink(missing_ok=True)
            # The property is read for the first client, not now.
            server = await asyncio.get_running_loop().create_unix_server(lambda: self._protocol(), str(path))
            path.chmod(0o600)
        except OSError as problem:
            _LOG.warning("no Jupyter socket for root: %s", problem)
            return None
        return server

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._opening:
                if self._server is None:
                    self._server = await self._open()
            answer = b"open\n"
        except OSError as problem:
            answer = f"port {self._settings.jupyter_port}: {problem}\n".encode()
        with contextlib.suppress(ConnectionError):
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def _open(self) -> asyncio.Server:
        """Serve on the port of 2024. Raises: OSError when it is taken."""
        settings = self._settings
        return await self._serve(borrow(settings.lender, settings.host, settings.jupyter_port))

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        # The property is read for the first client, not now.
        return await asyncio.get_running_loop().create_server(lambda: self._protocol(), sock=listener)

    @functools.cached_property
    def _protocol(self) -> Callable[[], asyncio.Protocol]:
        from sandpit.guest.interpreter.jupyter.app import protocol

        return protocol(self._registry, self._settings)
