"""Listening for HTTPS: connections that have not shaken hands yet are counted and timed like all others."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_PAUSE_S = 0.1
"""After a failed accept: descriptors that are used up do not come back at once."""


class TlsListener:
    """One listening socket. `room` says whether there is room for one more beside so many connections that shake hands."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        *,
        room: Callable[[int], bool],
        handshake_s: float,
    ) -> None:
        self.sock = sock
        self._context, self._make = context, make
        self._room, self._handshake_s = room, handshake_s
        self._handshakes: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept until cancelled; then the socket is closed, and handshakes that go on are broken off."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self.sock)
                except OSError as error:
                    _LOG.warning("a TLS connection could not be accepted: %s", error)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if not self._room(len(self._handshakes)):
                    connection.close()
                    continue
                handshake = loop.create_task(self._shake_hands(connection))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)
        finally:
            self.sock.close()
            for handshake in tuple(self._handshakes):
                handshake.cancel()

    async def _shake_hands(self, connection: socket.socket) -> None:
        """The protocol takes over when TLS is there; strangers who speak something else are let go without a word."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=self._handshake_s
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            connection.close()
