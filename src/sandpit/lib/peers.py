"""Connections by the address they come from: one client at its limit, or many idle ones, do not keep others out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Protocol

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SITE_BITS = 64
"""Of an IPv6 address: whoever has one address has all of its /64 (RFC 4291, 2.5.1)."""


class Connection(Protocol):
    """What may be closed to make room for another client's."""

    @property
    def idle(self) -> bool:
        """Whether it serves no request now."""

    def drop(self) -> None:
        """Close it at once."""


class Peers:
    """The connections of one port: `total` of all clients, `each` of one address.

    When all are taken, a client with fewer connections gets the place of an idle one of whoever has most.
    """

    def __init__(self, *, total: int, each: int, proxies: Iterable[Network] = ()) -> None:
        """`proxies` are addresses behind which there are many clients: for them, `each` does not hold."""
        self.total, self.each = total, each
        self._proxies = tuple(proxies)
        self._groups: dict[str, dict[Connection, None]] = {}
        self._group_of: dict[Connection, str] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def has_room(self, address: str, waiting: int = 0, waiting_of_all: int = 0) -> bool:
        """Whether one more connection may come from `address`, beside so many that are not admitted yet. May close an idle one."""
        group = self.group_of(address)
        held = len(self._groups.get(group, ())) + waiting
        if held >= self.each and not self.is_proxy(address):
            return False
        return len(self) + waiting_of_all < self.total or self._make_room(held)

    def add(self, connection: Connection, address: str) -> None:
        """Count a connection, whether there is room or not, until it is removed."""
        group = self.group_of(address)
        self._groups.setdefault(group, {})[connection] = None
        self._group_of[connection] = group

    def remove(self, connection: Connection) -> None:
        """Forget a connection; none is forgotten twice."""
        group = self._group_of.pop(connection, None)
        if group is not None:
            del self._groups[group][connection]
            if not self._groups[group]:
                del self._groups[group]

    def _make_room(self, held: int) -> bool:
        greediest = max(self._groups.values(), key=len, default={})
        if len(greediest) <= held + 1:
            return False
        for connection in greediest:  # the oldest first
            if connection.idle:
                self.remove(connection)
                connection.drop()
                return True
        return False

    def is_proxy(self, address: str) -> bool:
        """Whether many clients are behind an address."""
        if not self._proxies:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._proxies)

    def group_of(self, address: str) -> str:
        """What counts as one client."""
        if ":" not in address:
            return address
        try:
            found = ipaddress.IPv6Address(address.partition("%")[0])
        except ValueError:
            return address
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> _SITE_BITS << _SITE_BITS, _SITE_BITS)))
