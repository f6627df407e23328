"""The service `codeSnippet`: which TCP sockets there are (legacy-protocol 3.10)."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any

from sandpit.guest.agent.sockets import tcp_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandpit.guest.agent.legacy.rpc import Method, Subscription

_PERIOD_S = 1.0
_STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
    8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING",
}  # fmt: skip


class PortsService:
    """Looks once a second, for those who subscribed."""

    methods: Mapping[str, Method] = {}
    events: Mapping[str, int] = {"scanOpenedPorts": 0}

    def __init__(self) -> None:
        self._scans: dict[str, asyncio.Task[None]] = {}

    async def subscribe(self, subscription: Subscription) -> None:
        self._scans[subscription.id] = asyncio.create_task(_scan(subscription))

    def unsubscribe(self, subscription: Subscription) -> None:
        if (scan := self._scans.pop(subscription.id, None)) is not None:
            scan.cancel()


async def _scan(subscription: Subscription) -> None:
    while True:
        await subscription.send(sockets())
        await asyncio.sleep(_PERIOD_S)


def sockets() -> list[dict[str, Any]]:
    """All TCP sockets of the sandbox, in the daemon's spelling."""
    found = []
    for socket in tcp_sockets():
        ip, port = _address(socket.local)
        foreign_ip, foreign_port = _address(socket.remote)
        found.append(
            {
                "Ip": ip, "Port": port, "ForeignIp": foreign_ip, "ForeignPort": foreign_port,
                "State": _STATES.get(socket.state, "UNKNOWN"), "User": socket.uid, "Name": "", "Pid": "", "Exe": "",
            }
        )  # fmt: skip
    return found


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F90` is 127.0.0.1, 8080: the address in words of this machine's byte order."""
    raw, _, port = text.partition(":")
    words = [bytes.fromhex(raw[start : start + 8])[::-1] for start in range(0, len(raw), 8)]
    return str(ipaddress.ip_address(b"".join(words))), int(port, 16)
