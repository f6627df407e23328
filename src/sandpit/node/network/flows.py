"""Bounds of what connection tracking holds for one sandbox: its table is one for the whole host (nf_conntrack).

A flow counts while the kernel counts it: a closed TCP connection does not, but stays for some seconds. That is why new flows have a
rate, too, and why the times of all of them are shorter than the kernel's own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from sandpit.node.host.commands import CommandFailed, run

log = logging.getLogger(__name__)

STARTS_PER_SECOND = 200
STARTS_AT_ONCE = 1000
"""New flows of a sandbox; more are dropped, and tried again by whoever sent them."""
NAME_FLOWS = 4096
"""Flows of a sandbox to the relay for names: one for each query, for some seconds."""
NAME_PACKETS_PER_SECOND = 512
"""Packets of a sandbox to the relay, and as many again at once."""
TABLE_SIZE = 512 * 1024
"""Entries that the host's table should take at least (some 300 bytes each, when used)."""
_TABLE = Path("/proc/sys/net/netfilter/nf_conntrack_max")


@dataclass(frozen=True, slots=True)
class Rules:
    """Parts of the node's table (nft(8)): objects, rules for what is forwarded, rules for queries to the relay."""

    objects: str = ""
    forwarded: str = ""
    names: str = ""


NONE = Rules()


def bounds(most: int) -> Rules:
    """Rules by which a sandbox has at most `most` flows to the world. They need nft_connlimit and nf_conntrack's time-outs."""
    new = "ct state new ct status & confirmed == 0"  # later packets of a flow that nobody answered are new to the kernel, too
    return Rules(
        objects="""
  set flows { type ipv4_addr; size 65535; flags dynamic; }
  set starts { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 60s; }
  set asking { type ipv4_addr; size 65535; flags dynamic; }
  set asked { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 60s; }
  ct timeout tcp_flows {
    protocol tcp; l3proto ip;
    policy = { syn_sent : 30, syn_recv : 30, established : 7440, fin_wait : 30, close_wait : 60, last_ack : 15, time_wait : 10, close : 5 };
  }
  ct timeout udp_flows { protocol udp; l3proto ip; policy = { unreplied : 15, replied : 120 }; }
  ct timeout udp_names { protocol udp; l3proto ip; policy = { unreplied : 11, replied : 11 }; }
""",
        forwarded=f"""\
    {new} add @starts {{ ip saddr limit rate over {STARTS_PER_SECOND}/second burst {STARTS_AT_ONCE} packets }} drop
    {new} add @flows {{ ip saddr ct count over {most} }} goto refuse
    {new} ip protocol tcp ct timeout set "tcp_flows"
    {new} ip protocol udp ct timeout set "udp_flows"
""",
        names=f"""\
    add @asked {{ ip saddr limit rate over {NAME_PACKETS_PER_SECOND}/second burst {2 * NAME_PACKETS_PER_SECOND} packets }} drop
    {new} add @asking {{ ip saddr ct count over {NAME_FLOWS} }} drop
    {new} ip protocol tcp ct timeout set "tcp_flows"
    {new} ip protocol udp ct timeout set "udp_names"
""",
    )


def example() -> str:
    """A table with all of these rules, for a test whether this kernel takes them."""
    made = bounds(1000)
    chains = f"  chain forwarded {{\n{made.forwarded}  }}\n  chain names {{\n{made.names}  }}\n"
    return f"table ip check {{\n{made.objects}  chain refuse {{ }}\n{chains}}}\n"


async def widen_table() -> None:
    """Have the host's table take TABLE_SIZE entries, so that some sandboxes at their limits leave room for the host."""
    if not _TABLE.exists() or int(_TABLE.read_text()) >= TABLE_SIZE:
        return
    try:
        await run("sysctl", "-qw", f"net.netfilter.nf_conntrack_max={TABLE_SIZE}")
    except CommandFailed as error:  # only the host's own network namespace may
        log.warning("the table of connections stays at its size: %s", error)
