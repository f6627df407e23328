"""Which names a sandbox may resolve: its egress rules, as far as the node's DNS relay enforces them."""

from __future__ import annotations

from collections.abc import Mapping

from sandpit.node.firewall import ALL, Firewall, domains
from sandpit.node.launcher import Sandbox
from sandpit.node.slots import Slots


class NameRules:
    """Decides for the DNS relay, and opens the firewall for what it answered."""

    def __init__(self, sandboxes: Mapping[str, Sandbox], slots: Slots, firewall: Firewall) -> None:
        """`sandboxes` are those that somebody has, as they come and go; the parts belong to the caller."""
        self._sandboxes = sandboxes
        self._slots = slots
        self._firewall = firewall

    def may_resolve(self, address: str, name: str) -> bool:
        """Whether a sandbox may know a name: all may, unless only listed destinations are allowed. Nobody else may ask."""
        if self._slots.by_address(address) is None:
            return False
        sandbox = self._owner(address)
        if sandbox is None or ALL not in sandbox.policy.deny_out:
            return True
        return any(_matches(name, pattern) for pattern in domains(sandbox.policy.allow_out))

    async def resolved(self, address: str, name: str, found: list[str]) -> None:
        """Let a sandbox reach the addresses of a name that its rules allow, before it hears of them."""
        sandbox = self._owner(address)
        if sandbox is None or not found or not domains(sandbox.policy.allow_out):
            return
        if any(_matches(name, pattern) for pattern in domains(sandbox.policy.allow_out)):
            await self._firewall.learn(sandbox.slot.link, found)

    def _owner(self, address: str) -> Sandbox | None:
        slot = self._slots.by_address(address)
        return next((one for one in self._sandboxes.values() if one.slot is slot), None) if slot else None


def _matches(name: str, pattern: str) -> bool:
    """Domain rules of current-protocol 3.9: `*.x` does not match `x` itself, `*` matches every name."""
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
