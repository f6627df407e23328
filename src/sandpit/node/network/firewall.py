"""The host's packet rules for sandboxes, in nftables: address translation per link, what a sandbox may reach, masquerading.

A packet from a sandbox carries the inner address that all sandboxes share. The link's ingress hook (netdev) replaces it by the slot's
outer address before the host looks at it, and drops everything else, so nothing can be forged. Everything after that is ordinary
routing, filtered by outer address: what the sandbox sends by its destination, what comes back by its source.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from sandpit.contract.egress import CLOSED_RANGES, Range, Rules, compile_rules
from sandpit.contract.node import NetworkPolicy
from sandpit.node.config import GATEWAY_ADDRESS, INNER_ADDRESS, NodeConfig
from sandpit.node.host.commands import CommandFailed, run
from sandpit.node.network import flows
from sandpit.node.network.pins import MOST, SECONDS, Pins

log = logging.getLogger(__name__)

_MANY = 200
"""Entries of a policy above which it is compiled outside of the event loop."""


class Firewall:
    """The two nftables tables of one node: `netdev NAME` and `ip NAME`."""

    def __init__(self, config: NodeConfig) -> None:
        """Name the tables; nothing is touched."""
        self._name = config.name
        self._links = f'"{config.veth_prefix}*"'
        self._network = config.network
        self._opened = config.allow_ranges
        self._most_flows = config.sandbox_flows
        self._locks: dict[str, asyncio.Lock] = {}
        """By link: held while its rules are replaced, or addresses of names are opened under them."""
        self._rules: dict[str, Rules] = {}
        self._link_of: dict[str, str] = {}
        self._pins = Pins(self._apply, self._learned, self._rules.get, self._lock)

    async def install(self, dns_port: int) -> None:
        """Put the node's tables in place, replacing what an earlier process left. Slots must be added again."""
        bounds = flows.bounds(self._most_flows)
        try:
            await self._apply(self._tables(dns_port, bounds))
        except CommandFailed as error:
            log.warning("connections of sandboxes are not bounded in number, this kernel cannot count them: %s", error)
            await self._apply(self._tables(dns_port, flows.NONE))

    def _tables(self, dns_port: int, bounds: flows.Rules) -> str:
        closed = ", ".join(CLOSED_RANGES)
        opened = "".join(f"    ip daddr {network} accept\n" for network in self._opened)
        reopened = "".join(f"    ip saddr {network} accept\n" for network in self._opened)
        return f"""
table netdev {self._name}
delete table netdev {self._name}
table netdev {self._name} {{ }}
table ip {self._name}
delete table ip {self._name}
table ip {self._name} {{
  map policies {{ type ipv4_addr : verdict; }}
  map replies {{ type ipv4_addr : verdict; }}
  set named {{ type ipv4_addr; }}
{bounds.objects}  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname {self._links} tcp flags syn tcp option maxseg size set rt mtu
    iifname {self._links} jump outbound
    oifname {self._links} jump returning
  }}
  chain outbound {{
    ip protocol != {{ tcp, udp, icmp }} goto refuse
{bounds.forwarded}{opened}    ip daddr {{ {closed} }} goto refuse
    fib daddr type {{ local, broadcast, anycast, multicast }} goto refuse
    oifname {self._links} goto refuse
    ip saddr vmap @policies
    goto refuse
  }}
  chain returning {{
    ct state related accept
    ct state != established drop
{reopened}    ip daddr vmap @replies
    drop
  }}
  chain refuse {{
    ip protocol tcp reject with tcp reset
    reject with icmp type admin-prohibited
  }}
  chain input {{
    type filter hook input priority -10; policy accept;
    iifname {self._links} jump inbound
  }}
  chain inbound {{
    ip daddr {GATEWAY_ADDRESS} meta l4proto {{ tcp, udp }} th dport {dns_port} goto names
    ct state established,related accept
    goto refuse
  }}
  chain names {{
{bounds.names}    accept
  }}
  chain prerouting {{
    type nat hook prerouting priority -110; policy accept;
    iifname {self._links} ip daddr {GATEWAY_ADDRESS} udp dport 53 redirect to :{dns_port}
    iifname {self._links} ip daddr {GATEWAY_ADDRESS} tcp dport 53 redirect to :{dns_port}
    ip saddr @named udp dport 53 redirect to :{dns_port}
    ip saddr @named tcp dport 53 redirect to :{dns_port}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {self._network} oifname != {self._links} masquerade
  }}
}}
"""

    async def remove(self) -> None:
        """Take the node's tables away."""
        await self._pins.close()
        await self._apply(
            f"table netdev {self._name}\ndelete table netdev {self._name}\n"
            f"table ip {self._name}\ndelete table ip {self._name}\n"
        )

    async def add_slots(self, slots: Iterable[tuple[str, IPv4Address]]) -> None:
        """Translate addresses on new links; each is (interface, outer address). They reach nothing until a policy is set."""
        await self._apply("".join(self._slot_rules(link, outer) for link, outer in slots))

    def _slot_rules(self, link: str, outer: IPv4Address) -> str:
        name = _plain(link)
        return f"""
table netdev {self._name} {{
  chain in_{name} {{
    type filter hook ingress device "{link}" priority -300; policy drop;
    ether type arp accept
    ip saddr {INNER_ADDRESS} ip saddr set {outer} accept
  }}
  chain out_{name} {{
    type filter hook egress device "{link}" priority -300; policy accept;
    ip daddr {outer} ip daddr set {INNER_ADDRESS}
  }}
}}
table ip {self._name} {{
  set learned_{name} {{ type ipv4_addr; flags timeout; timeout {SECONDS}s; size {2 * MOST}; }}
  set allowed_{name} {{ type ipv4_addr; flags interval; }}
  set denied_{name} {{ type ipv4_addr; flags interval; elements = {{ 0.0.0.0-255.255.255.255 }}; }}
  chain policy_{name} {{
    ip daddr @allowed_{name} accept
    ip daddr @learned_{name} accept
    ip daddr @denied_{name} goto refuse
    accept
  }}
  chain replies_{name} {{
    ip saddr @allowed_{name} accept
    ip saddr @learned_{name} accept
    ip saddr @denied_{name} drop
    accept
  }}
}}
add element ip {self._name} policies {{ {outer} : goto policy_{name} }}
add element ip {self._name} replies {{ {outer} : goto replies_{name} }}
"""

    async def remove_slots(self, slots: Iterable[tuple[str, IPv4Address]]) -> None:
        """Forget links that are no more."""
        rules = ""
        for link, outer in slots:
            name, table = _plain(link), f"ip {self._name}"
            rules += f"""
delete element {table} policies {{ {outer} }}
delete element {table} replies {{ {outer} }}
add element {table} named {{ {outer} }}
delete element {table} named {{ {outer} }}
delete chain {table} policy_{name}
delete chain {table} replies_{name}
delete set {table} learned_{name}
delete set {table} allowed_{name}
delete set {table} denied_{name}
delete chain netdev {self._name} in_{name}
delete chain netdev {self._name} out_{name}
"""
            self._forget(link, outer)
        if rules:
            await self._apply(rules)

    def _forget(self, link: str, outer: IPv4Address) -> None:
        self._rules.pop(link, None)
        self._link_of.pop(str(outer), None)
        self._locks.pop(link, None)

    async def set_policy(self, link: str, outer: IPv4Address, policy: NetworkPolicy) -> None:
        """Replace a sandbox's egress rules in one transaction (current-protocol 3.9: allow wins over deny).

        They hold for connections that are open, too: neither direction passes any more. With names among the rules, all its DNS
        queries, to whatever server, are answered by the node: what it did not hear from there it cannot reach.
        Raises: NodeError, the old rules stay in force then.
        """
        large = len(policy.allow_out) + len(policy.deny_out) > _MANY
        rules = await asyncio.to_thread(compile_rules, policy) if large else compile_rules(policy)
        async with self._lock(link):
            before = self._rules.get(link)
            # First: a name that only the old rules allow is not resolved any more, and what was asked for by them opens nothing.
            self._rules[link], self._link_of[str(outer)] = rules, link
            try:
                await self._apply(self._policy_rules(link, outer, rules))
            except BaseException:
                if before is not None:
                    self._rules[link] = before
                raise

    def _policy_rules(self, link: str, outer: IPv4Address, rules: Rules) -> str:
        table, name = f"ip {self._name}", _plain(link)
        named = f"element {table} named {{ {outer} }}\n"
        text = f"flush set {table} learned_{name}\n"
        for kind, ranges in (("allowed", rules.allowed), ("denied", rules.denied)):
            text += f"flush set {table} {kind}_{name}\n"
            if ranges:
                text += f"add element {table} {kind}_{name} {{ {_elements(ranges)} }}\n"
        return text + f"add {named}" + ("" if rules.names else f"delete {named}")

    def rules_of(self, outer: str) -> Rules | None:
        """The rules in force for an outer address; None when nobody has it."""
        link = self._link_of.get(outer)
        return self._rules.get(link) if link is not None else None

    async def pin(self, outer: str, rules: Rules, addresses: Sequence[str]) -> bool:
        """Open addresses of a name that `rules` allow. False when that cannot be, or `rules` are not in force any more."""
        link = self._link_of.get(outer)
        return link is not None and await self._pins.open(link, rules, addresses)

    def _learned(self, link: str) -> str:
        return f"ip {self._name} learned_{_plain(link)}"

    def _lock(self, link: str) -> asyncio.Lock:
        return self._locks.setdefault(link, asyncio.Lock())

    async def _apply(self, rules: str) -> None:
        if rules.strip():
            await run("nft", "-f", "-", stdin=rules)


def _plain(link: str) -> str:
    """A link's name as part of a name in nftables."""
    return link.replace("-", "_")


def _elements(ranges: Iterable[Range]) -> str:
    return ", ".join(
        f"{IPv4Address(first)}-{IPv4Address(last)}" if last > first else str(IPv4Address(first))
        for first, last in ranges
    )
