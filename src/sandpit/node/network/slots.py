"""Network slots: one namespace, one link, one outer address per sandbox.

Slots are made ahead of demand and used again: giving a link its inner address back costs two netlink calls, making a namespace
costs tens of milliseconds of kernel time. The runtime takes the inner end over and strips its address (gVisor), so every use
starts by putting it back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from sandpit.contract.errors import CapacityExhausted
from sandpit.contract.node import NetworkPolicy
from sandpit.node.config import GATEWAY_ADDRESS, INNER_ADDRESS, INNER_PREFIX, NodeConfig
from sandpit.node.host.commands import CommandFailed, run
from sandpit.node.host.namespaces import allow_ping, local_ports
from sandpit.node.network import flows
from sandpit.node.network.firewall import Firewall
from sandpit.protocol import ports

_A = TypeVar("_A")
_R = TypeVar("_R")
_NETNS_DIR = Path("/run/netns")
_BATCH = 8
_DESTROY_SECONDS = 120.0
INTERPRETER_PORTS = frozenset({ports.INTERPRETER, ports.JUPYTER})


@dataclass(frozen=True, slots=True)
class Slot:
    """One network slot."""

    number: int
    namespace: str
    link: str
    outer: IPv4Address

    @property
    def namespace_path(self) -> str:
        """For the OCI configuration."""
        return str(_NETNS_DIR / self.namespace)


class Slots:
    """Makes, lends and takes back network slots."""

    def __init__(self, config: NodeConfig, firewall: Firewall, *, forget: Callable[[str], None]) -> None:
        """Nothing is touched before `start`. `forget` is called with an outer address that is taken back."""
        self._config = config
        self._forget = forget
        self._firewall = firewall
        self._free: deque[Slot] = deque()
        self._used: dict[int, Slot] = {}
        self._known: set[int] = set()
        self._making = asyncio.Lock()
        self._limit = config.network.num_addresses - 2
        self._sealed = False

    def _slot(self, number: int) -> Slot:
        name = f"{self._config.veth_prefix}{number}"
        return Slot(number, name, name, self._config.network.network_address + number)

    async def start(self, in_use: Iterable[int]) -> None:
        """Adopt the slots of running sandboxes, drop what else an earlier process left, and stock up."""
        await run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        await flows.widen_table()
        keep = set(in_use)
        left = {self._number(path.name) for path in _NETNS_DIR.glob(f"{self._config.veth_prefix}*")} - {None}
        await self._destroy([self._slot(number) for number in left if number is not None and number not in keep])
        adopted = [self._slot(number) for number in sorted(keep)]
        await self._firewall.add_slots((slot.link, slot.outer) for slot in adopted)
        self._used = {slot.number: slot for slot in adopted}
        self._known = set(keep)
        await self._make(_BATCH)

    def _number(self, name: str) -> int | None:
        digits = name.removeprefix(self._config.veth_prefix)
        return int(digits) if digits.isascii() and digits.isdigit() else None

    def get(self, number: int) -> Slot:
        """A slot that is lent out."""
        return self._used[number]

    async def take(self) -> Slot:
        """Lend a slot that has its address and reaches nothing yet. Raises: CapacityExhausted."""
        async with self._making:
            if self._sealed:
                raise CapacityExhausted("this node ends all its sandboxes, and lends no network slots any more")
            if not self._free:
                await self._make(_BATCH)
            slot = self._free.popleft()
        self._used[slot.number] = slot
        return slot

    def seal(self) -> None:
        """Lend none any more: what is given back need not be cleaned, since `stop` destroys it."""
        self._sealed = True

    async def give_back(self, slot: Slot) -> None:
        """Take a slot back after its sandbox is dead; one that cannot be cleaned is destroyed, never lent again."""
        self._forget(str(slot.outer))
        if self._sealed:
            self._used.pop(slot.number, None)
            self._free.append(slot)
            return
        try:
            await self._firewall.set_policy(slot.link, slot.outer, NetworkPolicy(deny_out=("0.0.0.0/0",)))
            self._forget(str(slot.outer))  # what came while the rules were being replaced
            await self._forget_flows(slot)
            await self._address([slot])
            usable = not await self._holds_ports(slot)
        except (CommandFailed, OSError):
            usable = False
        if not usable:
            await self._destroy([slot], ruled=True)
            self._used.pop(slot.number, None)
            self._known.discard(slot.number)
            return
        self._used.pop(slot.number, None)
        self._free.append(slot)

    async def _holds_ports(self, slot: Slot) -> bool:
        """Whether connections that outlive the last sandbox's processes would keep the next one's interpreter from its ports.

        Only in crun: gVisor's sockets end with it. The agent's own ports are bound so that such remains do not matter.
        """
        ports = await _in_thread(local_ports, slot.namespace_path)
        return not ports.isdisjoint(INTERPRETER_PORTS)

    async def _forget_flows(self, slot: Slot) -> None:
        """Drop tracked connections, so that no packet of the last sandbox's flows reaches the next one."""
        for side in ("--orig-src", "--orig-dst"):
            with contextlib.suppress(CommandFailed):  # exits 1 when there was nothing to delete
                await run("conntrack", "-D", side, str(slot.outer))

    async def _make(self, count: int) -> None:
        """Make new slots, in one batch for each tool."""
        numbers = self._unused(count)
        if not numbers:
            raise CapacityExhausted(
                f"all {self._limit} network slots of {self._config.network} are in use: kill sandboxes, "
                "or configure a larger sandbox network"
            )
        slots = [self._slot(number) for number in numbers]
        mtu = await _uplink_mtu()
        lines = []
        for slot in slots:
            lines += [
                f"netns add {slot.namespace}",
                f"link add {slot.link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {slot.namespace}",
                f"link set {slot.link} up",
                f"addr add {GATEWAY_ADDRESS}/32 dev {slot.link}",
                f"route add {slot.outer}/32 via {INNER_ADDRESS} dev {slot.link} onlink",
            ]
        await run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for slot in slots:
            # Reverse-path filtering would drop what comes in under the outer address on some distributions.
            Path(f"/proc/sys/net/ipv4/conf/{slot.link}/rp_filter").write_text("0")
            Path(f"/proc/sys/net/ipv6/conf/{slot.link}/disable_ipv6").write_text("1")
        await self._firewall.add_slots((slot.link, slot.outer) for slot in slots)
        await self._address(slots)
        await _in_thread(allow_ping, [slot.namespace_path for slot in slots])
        self._known.update(numbers)
        self._free.extend(slots)

    def _unused(self, count: int) -> list[int]:
        found: list[int] = []
        number = 1
        while len(found) < count and number <= self._limit:
            if number not in self._known:
                found.append(number)
            number += 1
        return found

    async def _address(self, slots: Sequence[Slot]) -> None:
        """Give the inner ends the address and the route that every sandbox has."""
        lines = (
            "addr flush dev eth0",
            f"addr add {INNER_ADDRESS}/{INNER_PREFIX} dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route replace default via {GATEWAY_ADDRESS}",
        )
        for slot in slots:
            await run("ip", "-n", slot.namespace, "-batch", "-", stdin="\n".join(lines) + "\n")

    async def _destroy(self, slots: Sequence[Slot], *, ruled: bool = False) -> None:
        if ruled:
            await self._firewall.remove_slots((slot.link, slot.outer) for slot in slots)
        if not slots:
            return
        # The link goes with its namespace, unless that was half-made. One command for all: it goes on after an error.
        lines = [line for slot in slots for line in (f"link del {slot.link}", f"netns del {slot.namespace}")]
        with contextlib.suppress(CommandFailed):
            await run("ip", "-force", "-batch", "-", stdin="\n".join(lines) + "\n", timeout=_DESTROY_SECONDS)
        if left := [slot.namespace for slot in slots if Path(slot.namespace_path).exists()]:
            raise CommandFailed(["ip", "netns", "del"], None, f"still there: {', '.join(left)}")

    async def stop(self, *, keep_used: bool) -> None:
        """Destroy the free slots, and the lent ones unless their sandboxes go on."""
        slots = list(self._free) + ([] if keep_used else list(self._used.values()))
        self._free.clear()
        await self._destroy(slots, ruled=True)


async def _in_thread(function: Callable[[_A], _R], argument: _A) -> _R:
    """Call what leaves its thread in another network namespace: the thread ends after that."""
    executor = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, function, argument)
    finally:
        executor.shutdown(wait=False)


async def _uplink_mtu() -> int:
    """The largest packet that leaves this host whole: with larger ones, big first packets (TLS with post-quantum keys) get lost."""
    for line in (await run("ip", "-o", "route", "show", "default")).splitlines():
        words = line.split()
        if "dev" in words:
            return int(Path("/sys/class/net", words[words.index("dev") + 1], "mtu").read_text())
    return 1500
