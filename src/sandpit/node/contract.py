"""What one machine offers to the control plane: the seam between `control/` and `node/`.

Nothing above this seam may assume that a sandbox is on this machine: every call could be remote, every value is plain data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Egress rules of one sandbox (current-protocol 3.9). Allow wins over deny; private ranges are never reachable."""

    allow_out: tuple[str, ...] = ()
    """IPv4 addresses, CIDRs, domains, `*.domain`."""
    deny_out: tuple[str, ...] = ()
    """IPv4 addresses and CIDRs; `0.0.0.0/0` turns the allow list into a whitelist."""
    dns_servers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is to be. `sandbox_id` matches `^[a-z0-9]+$` and is chosen by the caller."""

    sandbox_id: str
    template_id: str
    build_id: str
    access_token: str | None
    """Demanded by the agent in `X-Access-Token`; None leaves the sandbox open (v1, `secure: false`)."""
    env: Mapping[str, str] = field(default_factory=dict)
    network: NetworkPolicy = field(default_factory=NetworkPolicy)


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that runs: where the edge finds it."""

    sandbox_id: str
    address: str
    """IPv4 address at which the edge reaches the sandbox's ports from this machine."""
    started_warm: bool = False


@dataclass(frozen=True, slots=True)
class SandboxMetric:
    """One sample. Memory and disk in bytes, CPU in percent of one core times the number of cores used (0..100*cpu_count)."""

    timestamp: float
    """Unix seconds."""
    cpu_count: int
    cpu_used_pct: float
    mem_used: int
    mem_total: int
    mem_cache: int
    disk_used: int
    disk_total: int


@dataclass(frozen=True, slots=True)
class TemplateImage:
    """A template build that this node can start."""

    template_id: str
    build_id: str
    names: tuple[str, ...]
    cpu_count: int
    memory_mb: int
    disk_mb: int
    runtime: str


class NodeError(Exception):
    """A node could not do what it was asked for. The message says what happened, why, and what to do."""


class UnknownTemplateBuild(NodeError):
    """The build is not on this node."""


class UnknownSandbox(NodeError):
    """The sandbox is not on this node."""


class CapacityExhausted(NodeError):
    """The node's memory or slots are used up, and waiting did not help."""


SandboxGone = Callable[[str, str], Awaitable[None]]
"""Called with (sandbox id, reason) when a sandbox ended without having been asked to, for instance `out of memory`."""


class Node(Protocol):
    """One machine: the life of its sandboxes."""

    async def start(self) -> Sequence[RunningSandbox]:
        """Prepare the machine, find sandboxes that outlived the last server process, and return them."""

    async def stop(self, *, kill_sandboxes: bool) -> None:
        """Release what this process holds. Sandboxes go on unless `kill_sandboxes`."""

    def on_gone(self, callback: SandboxGone) -> None:
        """Have `callback` told about sandboxes that end on their own."""

    def templates(self) -> Sequence[TemplateImage]:
        """The template builds that this node can start."""

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        """Start a sandbox: from the warm pool, else by restoring its snapshot, else by a cold boot.

        Raises: UnknownTemplateBuild, CapacityExhausted, NodeError.
        """

    async def kill(self, sandbox_id: str) -> None:
        """End a sandbox at once; returns when its processes are dead, tidies up behind the answer.

        Raises: UnknownSandbox.
        """

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """Replace the egress rules of a running sandbox. Raises: UnknownSandbox."""

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        """Measure a running sandbox now. Raises: UnknownSandbox, NodeError."""
