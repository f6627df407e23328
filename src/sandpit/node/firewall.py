"""The host's packet rules for sandboxes, in nftables: address translation per link, what a sandbox may reach, masquerading.

A packet from a sandbox carries the inner address that all sandboxes share. The link's ingress hook (netdev) replaces it by the slot's
outer address before the host looks at it, and drops everything else, so nothing can be forged. Everything after that is ordinary
routing, filtered by outer address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from sandpit.node.commands import run
from sandpit.node.config import GATEWAY_ADDRESS, INNER_ADDRESS, NodeConfig
from sandpit.node.contract import NetworkPolicy

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

ALL = "0.0.0.0/0"


class Firewall:
    """The two nftables tables of one node: `netdev NAME` and `ip NAME`."""

    def __init__(self, config: NodeConfig) -> None:
        """Name the tables; nothing is touched."""
        self._name = config.name
        self._links = f'"{config.veth_prefix}*"'
        self._network = config.network
        self._opened = config.allow_ranges

    async def install(self, dns_port: int) -> None:
        """Put the node's tables in place, replacing what an earlier process left. Slots must be added again."""
        closed = ", ".join(CLOSED_RANGES)
        opened = "".join(f"    ip daddr {network} accept\n" for network in self._opened)
        await self._apply(f"""
table netdev {self._name}
delete table netdev {self._name}
table netdev {self._name} {{ }}
table ip {self._name}
delete table ip {self._name}
table ip {self._name} {{
  map policies {{ type ipv4_addr : verdict; }}
  set named {{ type ipv4_addr; }}
  chain forward {{
    type filter hook forward priority -10; policy accept;
    iifname {self._links} tcp flags syn tcp option maxseg size set rt mtu
    iifname {self._links} jump outbound
    oifname {self._links} ct state established,related accept
    oifname {self._links} drop
  }}
  chain outbound {{
{opened}    ip daddr {{ {closed} }} goto refuse
    fib daddr type {{ local, broadcast, anycast, multicast }} goto refuse
    oifname {self._links} goto refuse
    ip saddr vmap @policies
    goto refuse
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
    ct state established,related accept
    ip daddr {GATEWAY_ADDRESS} udp dport {dns_port} accept
    ip daddr {GATEWAY_ADDRESS} tcp dport {dns_port} accept
    goto refuse
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
""")

    async def remove(self) -> None:
        """Take the node's tables away."""
        await self._apply(
            f"table netdev {self._name}\ndelete table netdev {self._name}\n"
            f"table ip {self._name}\ndelete table ip {self._name}\n"
        )

    async def add_slots(self, slots: Iterable[tuple[str, IPv4Address]]) -> None:
        """Translate addresses on new links; each is (interface, outer address). They reach nothing until a policy is set."""
        await self._apply("".join(self._slot_rules(link, outer) for link, outer in slots))

    def _slot_rules(self, link: str, outer: IPv4Address) -> str:
        name = link.replace("-", "_")
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
  set learned_{name} {{ type ipv4_addr; flags timeout; timeout 1h; size 4096; }}
  chain policy_{name} {{ }}
}}
add element ip {self._name} policies {{ {outer} : goto policy_{name} }}
"""

    async def remove_slots(self, slots: Iterable[tuple[str, IPv4Address]]) -> None:
        """Forget links that are no more."""
        rules = ""
        for link, outer in slots:
            name = link.replace("-", "_")
            rules += f"""
delete element ip {self._name} policies {{ {outer} }}
flush chain ip {self._name} policy_{name}
delete chain ip {self._name} policy_{name}
delete set ip {self._name} learned_{name}
delete chain netdev {self._name} in_{name}
delete chain netdev {self._name} out_{name}
"""
        if rules:
            await self._apply(rules)

    async def set_policy(self, link: str, outer: IPv4Address, policy: NetworkPolicy) -> None:
        """Replace a sandbox's egress rules in one transaction (current-protocol 3.9: allow wins over deny).

        With names among the rules, all its DNS queries, to whatever server, are answered by the node: what it did not hear from
        there it cannot reach.
        """
        chain = f"ip {self._name} policy_{link.replace('-', '_')}"
        learned = f"learned_{link.replace('-', '_')}"
        allowed = addresses(policy.allow_out)
        rules = f"flush chain {chain}\nflush set ip {self._name} {learned}\n"
        if allowed:
            rules += f"add rule {chain} ip daddr {{ {', '.join(allowed)} }} accept\n"
        named = f"element ip {self._name} named {{ {outer} }}\n"
        rules += f"add {named}"
        if not domains(policy.allow_out):
            rules += f"delete {named}"
        else:
            rules += f"add rule {chain} ip daddr @{learned} accept\n"
        denied = addresses(policy.deny_out)
        if denied:
            rules += f"add rule {chain} ip daddr {{ {', '.join(denied)} }} goto refuse\n"
        await self._apply(rules + f"add rule {chain} accept\n")

    async def learn(self, link: str, found: Iterable[str]) -> None:
        """Let a sandbox reach addresses that an allowed name was just resolved to."""
        elements = ", ".join(found)
        if elements:
            await self._apply(f"add element ip {self._name} learned_{link.replace('-', '_')} {{ {elements} }}\n")

    async def _apply(self, rules: str) -> None:
        if rules.strip():
            await run("nft", "-f", "-", stdin=rules)


def addresses(rules: Iterable[str]) -> list[str]:
    """The addresses and CIDRs among egress rules, merged so that they do not overlap."""
    networks = [network for rule in rules if (network := _network(rule)) is not None]
    return [str(network) for network in collapse_addresses(networks)]


def domains(rules: Iterable[str]) -> list[str]:
    """The domain names and `*.domain` patterns among egress rules, lower-case."""
    return [rule.lower() for rule in rules if _network(rule) is None]


def _network(rule: str) -> IPv4Network | None:
    try:
        return IPv4Network(rule, strict=False)
    except ValueError:
        return None
