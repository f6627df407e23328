"""Listening for HTTPS: connections that have not shaken hands yet are counted and timed like all others."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_PAUSE_S = 0.1
"""After a failed accept: descriptors that are used up do not come back at once."""


class TlsListener:
    """One listening socket. `room(address, n, m)`: for one more of a client, beside n of its and m of all that shake hands."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        room: Callable[[str, int, int], bool],
        handshake_s: float,
    ) -> None:
        self.sock = sock
        self._context, self._make = context, make
        self._room, self._handshake_s = room, handshake_s
        self._handshakes: set[asyncio.Task[None]] = set()
        self._of_client: Counter[str] = Counter()

    async def serve(self) -> None:
        """Accept until cancelled; then the socket is closed, and handshakes that go on are broken off."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(self.sock)
                except OSError as error:
                    _LOG.warning("a TLS connection could not be accepted: %s", error)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if not self._room(peer[0], self._of_client[peer[0]], len(self._handshakes)):
                    connection.close()
                    continue
                self._begin(loop.create_task(self._shake_hands(connection)), peer[0])
        finally:
            self.sock.close()
            for handshake in tuple(self._handshakes):
                handshake.cancel()

    def _begin(self, handshake: asyncio.Task[None], address: str) -> None:
        """Count a handshake until it is over."""

        def over(_: object) -> None:
            self._handshakes.discard(handshake)
            self._of_client[address] -= 1
            if not self._of_client[address]:
                del self._of_client[address]

        self._handshakes.add(handshake)
        self._of_client[address] += 1
        handshake.add_done_callback(over)

    async def _shake_hands(self, connection: socket.socket) -> None:
        """The protocol takes over when TLS is there; strangers who speak something else are let go without a word."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, connection, ssl=self._context, ssl_handshake_timeout=self._handshake_s
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            connection.close()
