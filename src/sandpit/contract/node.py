"""What one machine offers to the control plane: the interface between `control/` and `node/`.

Nothing above this seam may assume that a sandbox is on this machine: every call could be remote, every value is plain data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sandpit.contract.builder import BuildFiles, BuildReport, BuildSpec


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
    tenant: str = ""
    """Whose it is: creates that must wait are served in turn between tenants."""
    snapshot_id: str | None = None
    """Start from this snapshot of a sandbox instead of from the template's; the build is then the snapshot's, whatever `build_id` says."""
    resumed: bool = False
    """The snapshot's sandbox itself goes on; otherwise the new one is a copy, which gets randomness of its own."""
    memory: bool = True
    """False: boot with the snapshot's file system, even if it has the processes too."""


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that runs: where the edge finds it."""

    sandbox_id: str
    address: str
    """IPv4 address at which the edge reaches the sandbox's ports from this machine."""
    started_warm: bool = False
    relay_secret: str = field(default="", repr=False)
    """By which the sandbox's relay knows the edge; empty for a sandbox from before there were secrets."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A sandbox as it was at one moment, kept on disk."""

    snapshot_id: str
    build_id: str
    """The template build that it stands on: its layers are not part of the snapshot."""
    memory: bool
    """Whether processes and memory are in it; otherwise the file system only."""
    size: int
    """Bytes on disk."""
    responsive: bool = True
    """Of one with memory: whether its agent answered. If not, what is restored from it would not answer either: boot it from its files."""


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


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """Something that happened in a sandbox, as its own agent tells it: nothing in it can be trusted but its form and size."""

    position: int
    """Microseconds since 1970; larger than that of every earlier event of the sandbox."""
    level: str
    """debug, info, warn, error."""
    logger: str
    """process, terminal, filesystem, network, agent."""
    message: str
    fields: Mapping[str, str]


GuestEvents = Callable[[str, Sequence[GuestEvent]], None]
"""Called with (sandbox id, events in order). It must not wait."""


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

    def on_events(self, callback: GuestEvents) -> None:
        """Have `callback` told what happens in sandboxes that are followed."""

    def follow(self, sandbox_id: str, after: int) -> None:
        """Tell of this sandbox's events after a position from now on, until it ends. Raises: UnknownSandbox."""

    def templates(self) -> Sequence[TemplateImage]:
        """The template builds that this node can start."""

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        """Start a sandbox: from the warm pool, else by restoring its snapshot, else by a cold boot.

        With a `snapshot_id` it starts from that. A snapshot with memory that this node's runtime cannot restore (another release took it)
        boots from its file system. Raises: UnknownTemplateBuild, UnknownSnapshot, SnapshotDamaged, CapacityExhausted, NodeError.
        """

    async def announce_snapshot(self, sandbox_id: str) -> None:
        """Tell a sandbox that its connections are about to be cut: what its clients started goes on. `snapshot` must follow.

        Raises: UnknownSandbox, AgentUnresponsive: a snapshot can be taken all the same, which says so.
        """

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        """Keep a running sandbox's state under a new name (`^[a-z0-9-]+$`), and end it if `end`, else let it go on.

        Its connections with the outside are cut. The snapshot is there whole or not at all; when it fails, the sandbox goes on. Without
        `memory`, or on a runtime that has no live snapshots, it holds the file system only.
        Raises: UnknownSandbox, NodeError.
        """

    async def remove_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; one that is not there is no error. Raises: NodeError."""

    def snapshots(self) -> Sequence[SnapshotInfo]:
        """The snapshots on this node."""

    def touch(self, sandbox_id: str) -> None:
        """Something flows between a client and a sandbox, which is to be on time from now on. It must not wait; any id will do."""

    def seal(self) -> None:
        """Start no sandbox any more: creates that wait are refused, as are those that come. `stop` or `kill_all` follows."""

    async def kill_all(self) -> None:
        """End every sandbox at once, and start none any more; returns when the processes of all are dead. Each must be killed all the same,
        which costs nothing then: what they held is given back by that, and by `stop`.
        """

    async def kill(self, sandbox_id: str) -> None:
        """End a sandbox at once; returns when its processes are dead, tidies up behind the answer.

        Raises: UnknownSandbox; NodeError when they do not die, and the sandbox can be killed again.
        """

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """Replace the egress rules of a running sandbox, or leave them as they were. Raises: UnknownSandbox, NodeError."""

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        """Measure a running sandbox now. Raises: UnknownSandbox, NodeError."""

    async def build(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> TemplateImage:
        """Build a template, and make it ready to start from. A build that fails or is cancelled leaves nothing but cached layers.

        Raises: BuildFailed, NodeError.
        """

    async def remove_build(self, build_id: str) -> None:
        """Forget a build that nothing is started from any more; one that is not there is no error. Running sandboxes are not harmed."""

    async def build_bytes(self, tenant: str) -> int:
        """Disk that a tenant's builds take up; what they share with each other counts once, what came with the product does not.

        Raises: NodeError.
        """

    def builds(self) -> Sequence[str]:
        """Ids of the builds on this node that teams have made."""
