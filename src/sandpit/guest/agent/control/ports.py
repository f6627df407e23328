"""Which ports servers in this sandbox listen on, told to the journal when they appear.

The kernel tells nobody, so it must be looked: after something was started, often at first and then ever less, and after a minute not
at all. A sandbox in which nothing is started costs nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sandpit.guest.agent.sockets import LISTEN, tcp_sockets
from sandpit.protocol import ports

if TYPE_CHECKING:
    from sandpit.guest.agent.control.journal import Journal

OWN_PORTS = frozenset({ports.AGENT, ports.LEGACY_AGENT, ports.RELAY, ports.INTERPRETER})
FIRST_S = 0.15
LAST_S = 40.0


class PortWatch:
    """Looks after each `poke`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: set[int] = set()
        self._pause = FIRST_S
        self._timer: asyncio.TimerHandle | None = None
        self._claimed = False

    def poke(self) -> None:
        """Something was started that may listen soon. A sandbox that waits for somebody does not look: hundreds may wait."""
        if not self._claimed:
            return
        if self._timer is not None:
            if self._pause <= 2 * FIRST_S:
                return
            self._timer.cancel()
        self._pause = FIRST_S
        self._later()

    def begin(self) -> None:
        """Another sandbox begins: what listens already is new to its journal."""
        self._claimed = True
        self._known.clear()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)

    def _look(self) -> None:
        found = listening() - OWN_PORTS
        for port in sorted(found - self._known):
            self._journal.add("network", "info", "port is listening", port=port)
        self._known = found
        self._pause *= 2
        self._timer = None
        if self._pause <= LAST_S:
            self._later()


def listening() -> set[int]:
    """The TCP ports with a listening socket."""
    return {socket.port for socket in tcp_sockets() if socket.state == LISTEN}
