"""Network slots without sandboxes in them: the packet rules and the relay for names of a node, and programs in a slot's namespace."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import dns.message
import dns.rcode
import dns.rrset
from tests.machines import WORKER, new_name, new_network

from sandpit.contract.node import NetworkPolicy
from sandpit.node.config import NodeConfig
from sandpit.node.network.dns import Bounds, DnsRelay
from sandpit.node.network.firewall import Firewall
from sandpit.node.network.slots import Slot, Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVER = f"127.77.{WORKER}.53"
"""Where the name server of a test listens."""


class NameServer(asyncio.DatagramProtocol):
    """Answers A queries for `names`; what is in `slow` it keeps for itself until `release`."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.slow = "slow."
        self.seen: list[dns.message.Message] = []
        self.wires: list[bytes] = []
        self.ports: set[int] = set()
        self.forge = False
        self._kept: list[tuple[bytes, tuple[str, int]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.wires.append(data)
        self.seen.append(query)
        self.ports.add(addr[1])
        name = query.question[0].name.to_text(omit_final_dot=True)
        answer = dns.message.make_response(query)
        if name not in self.names:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        for address in self.names.get(name, ()) if query.question[0].rdtype == 1 else ():
            answer.answer.append(dns.rrset.from_text(name + ".", 60, "IN", "A", address))
        wire = answer.to_wire()
        if name.startswith(self.slow):
            self._kept.append((wire, addr))
            return
        if self.forge:
            self.transport.sendto(bytes([wire[0] ^ 1]) + wire[1:], addr)
            self.transport.sendto(
                wire.replace(name.partition(".")[0].encode(), b"x" * len(name.partition(".")[0]), 1), addr
            )
        self.transport.sendto(wire, addr)

    def release(self) -> None:
        """Answer what was kept."""
        for wire, addr in self._kept:
            self.transport.sendto(wire, addr)
        self._kept.clear()


@dataclass
class PlainSlots:
    """What a node has between sandboxes and the world."""

    config: NodeConfig
    firewall: Firewall
    relay: DnsRelay
    slots: Slots
    server: NameServer
    taken: list[Slot] = field(default_factory=list)

    async def take(self, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> Slot:
        """A slot with rules."""
        slot = await self.slots.take()
        self.taken.append(slot)
        await self.set(slot, allow=allow, deny=deny)
        return slot

    async def set(self, slot: Slot, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> None:
        await self.firewall.set_policy(slot.link, slot.outer, NetworkPolicy(allow_out=allow, deny_out=deny))

    async def give_back(self, slot: Slot) -> None:
        """As when its sandbox has ended."""
        self.taken.remove(slot)
        await self.slots.give_back(slot)

    async def learned(self, slot: Slot) -> str:
        """The addresses that names have opened for a slot, as nft(8) lists them."""
        name = f"learned_{slot.link.replace('-', '_')}"
        return await output("nft", "list", "set", "ip", self.config.name, name)


async def output(*command: str) -> str:
    """Standard output of a command that must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def inside(slot: Slot, program: str, *arguments: str) -> str:
    """What a Python program prints in a slot's namespace."""
    command = ("ip", "netns", "exec", slot.namespace, sys.executable, "-I", "-c", program, *arguments)
    return (await output(*command)).strip()


@asynccontextmanager
async def plain_slots(*, bounds: Bounds | None = None, flows: int = 2048) -> AsyncIterator[PlainSlots]:
    """Everything, with a name server on loopback; all of it is gone afterwards."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=(SERVER, 53))
    nowhere = Path("/nonexistent")
    config = NodeConfig(nowhere, nowhere, name=new_name(), network=new_network(), sandbox_flows=flows)
    firewall = Firewall(config)
    relay = DnsRelay(firewall.rules_of, firewall.pin, servers=[SERVER], bounds=bounds)
    plain = PlainSlots(config, firewall, relay, Slots(config, firewall, forget=relay.forget), server)
    await firewall.install(await relay.start())
    try:
        await plain.slots.start([])
        yield plain
    finally:
        for slot in plain.taken:
            await plain.slots.give_back(slot)
        await relay.stop()
        await plain.slots.stop(keep_used=False)
        await firewall.remove()
        transport.close()
        await asyncio.sleep(0)
