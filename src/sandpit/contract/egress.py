"""Egress rules as sets of addresses and of names: what a policy leaves open, computed exactly, in whatever notation it is written.

Pure: the control plane checks requests with it, the node enforces what it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network

from sandpit.contract.errors import NodeError
from sandpit.contract.node import NetworkPolicy

CLOSED_RANGES = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
)
"""Never reachable from a sandbox: this host, private, shared, link-local (cloud metadata), multicast and reserved space (RFC 6890)."""

MAX_RULES = 10_000
"""Entries of one policy that a node accepts, as the last bound behind that of requests."""
_LAST = (1 << 32) - 1
_ADDRESS = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})(?:/([0-9]{1,2}))?", re.ASCII)
_ADDRESS_TYPES = frozenset({1, 5, 28, 64, 65})
"""A, CNAME, AAAA, SVCB, HTTPS (IANA, DNS parameters): what a client needs to connect to a name."""

Range = tuple[int, int]
"""First and last address, as numbers."""
Labels = tuple[bytes, ...]
"""A domain name: its labels in lower case, without the root's empty one."""


def address_range(rule: str) -> Range | None:
    """The addresses that an IPv4 address or CIDR block means (host bits do not count); None for anything else."""
    match = _ADDRESS.fullmatch(rule)
    if match is None:
        return None
    parts, bits = [int(part) for part in match.groups()[:4]], int(match[5] or 32)
    # Leading zeros are refused: some programs read 010 as 8.
    if bits > 32 or any(part > 255 or text != str(part) for part, text in zip(parts, match.groups()[:4], strict=True)):
        return None
    size = 1 << (32 - bits)
    first = int.from_bytes(bytes(parts), "big") & -size
    return first, first + size - 1


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same addresses in order, without overlaps or neighbours."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def _network_range(network: IPv4Network) -> Range:
    return int(network.network_address), int(network.broadcast_address)


_CLOSED = merged(_network_range(IPv4Network(text)) for text in CLOSED_RANGES)


def covers_everything(ranges: Iterable[Range]) -> bool:
    """Whether no address is left that a sandbox could reach: what is closed anyway need not be listed."""
    return merged([*ranges, *_CLOSED]) == ((0, _LAST),)


def denies_everything(rules: Iterable[str]) -> bool:
    """Whether a list of denied addresses and blocks leaves nothing."""
    return covers_everything(found for rule in rules if (found := address_range(rule)) is not None)


def is_closed(address: int) -> bool:
    """Whether no sandbox may reach an address, whatever its rules say."""
    return any(first <= address <= last for first, last in _CLOSED)


def labels_of(name: str) -> Labels:
    """A name as a rule has it: ASCII, dots between labels, a final dot does not count."""
    return tuple(label.encode("ascii", "replace").lower() for label in name.removesuffix(".").split("."))


class NameSet:
    """Names and `*.name` patterns, compared label by label (current-protocol 3.9: `*.x` does not match `x`, `*` matches all)."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Take patterns that are checked already."""
        listed = set(patterns)
        self._all = "*" in listed
        self._exact = {labels_of(one) for one in listed if not one.startswith("*")}
        self._below = {labels_of(one[2:]) for one in listed if one.startswith("*.")}

    def __bool__(self) -> bool:
        """Whether any name is in it."""
        return self._all or bool(self._exact or self._below)

    def __contains__(self, name: Labels) -> bool:
        """Whether a pattern matches a name, which has 127 labels at most."""
        if self._all or name in self._exact:
            return True
        return bool(self._below) and any(name[start:] in self._below for start in range(1, len(name)))


@dataclass(frozen=True, eq=False)
class Rules:
    """One policy, compiled. Two of them are equal only if they are one: who holds one can tell whether it is still in force."""

    allowed: tuple[Range, ...] = ()
    denied: tuple[Range, ...] = ()
    names: NameSet = field(default_factory=lambda: NameSet(()))
    pins: dict[str, float] = field(default_factory=dict)
    """Addresses that allowed names were resolved to, and when (event loop time) their element was made."""

    @cached_property
    def only_listed(self) -> bool:
        """Whether nothing is reachable but what the allow list names. Names are egress: then only listed ones are resolved."""
        return covers_everything((*self.denied, *self.allowed)) and not covers_everything(self.allowed)

    def may_ask(self, name: Labels, kind: int) -> bool:
        """Whether a query may leave this machine.

        With only listed destinations allowed, an allowed name gives the right to connect to it: other records of it are not
        needed for that, and stay closed.
        """
        return not self.only_listed or (kind in _ADDRESS_TYPES and name in self.names)

    def pinned(self, name: Labels) -> bool:
        """Whether the addresses of a name are opened when it is resolved."""
        return bool(self.names) and name in self.names


CLOSED = Rules(denied=((0, _LAST),))
"""Nothing is reachable, no name is resolved."""


def compile_rules(policy: NetworkPolicy) -> Rules:
    """What a policy means. Takes some microseconds per entry. Raises: NodeError for more than MAX_RULES entries."""
    if len(policy.allow_out) + len(policy.deny_out) > MAX_RULES:
        raise NodeError(f"a sandbox has at most {MAX_RULES} egress rules")
    allowed, names = _sorted_out(policy.allow_out)
    denied, _ = _sorted_out(policy.deny_out)
    rules = Rules(allowed, denied, NameSet(names))
    _ = rules.only_listed  # computed here, where time may be taken
    return rules


def _sorted_out(rules: Sequence[str]) -> tuple[tuple[Range, ...], list[str]]:
    ranges, names = [], []
    for rule in rules:
        found = address_range(rule)
        if found is None:
            names.append(rule.lower())
        else:
            ranges.append(found)
    return merged(ranges), names
