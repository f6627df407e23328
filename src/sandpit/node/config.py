"""What a node is told when it starts, and where its things lie on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from sandpit.node.sandboxes.trust import Trust

INNER_ADDRESS = IPv4Address("169.254.0.21")
"""The address every sandbox believes it has: a snapshot taken in one network slot restores in any other."""
GATEWAY_ADDRESS = IPv4Address("169.254.0.22")
"""The host's end of every sandbox's link, as the sandbox sees it."""
INNER_PREFIX = 30
DEFAULT_NETWORK = IPv4Network("10.201.0.0/16")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Settings of one node. `name` separates what several nodes on one machine own; at most 8 letters and digits."""

    data_dir: Path
    run_dir: Path
    name: str = "sandpit"
    network: IPv4Network = DEFAULT_NETWORK
    """Outer addresses of the sandboxes, one each; seen on this machine only."""
    runtime: str | None = None
    """Forces one runtime for all templates; None takes each template's own."""
    cpu_count: int = 2
    """vCPUs of a template that asks for none."""
    memory_mb: int = 512
    """Memory, in MiB, of a template that asks for none."""
    pool_size: int = 2
    """Sandboxes kept ready per template, at least."""
    pool_max: int = 16
    """Sandboxes kept ready per template at most, when that many were asked for at once."""
    pool_memory_mb: int = 2048
    """What the ready sandboxes may hold together, in MiB of resident memory (estimated by their snapshots)."""
    memory_reserve_mb: int = 512
    """Host memory, in MiB, that is never given to sandboxes."""
    reserved_cpus: float | None = None
    """Processors that are never given to sandboxes; None: a quarter of one, or a twentieth of all if that is more."""
    sandbox_cpus: float | None = None
    """Processors that all sandboxes may use together; None: all but the reserved ones."""
    sandbox_memory_mb: int | None = None
    """Memory, in MiB, that all sandboxes may use together; None: all but the reserve."""
    least_cpu: float = 0.05
    """A sandbox is started only if this part of a processor, or more, would be left for it."""
    full_seconds: float = 10.0
    """How long a create waits for room on a full node before it is refused; after that many seconds without room, others are at once."""
    create_seconds: float = 55.0
    """How long a create from a template may take altogether."""
    create_queue: int = 256
    """Creates that may wait for their turn; more are refused at once."""
    disk_reserve_mb: int | None = None
    """Disk, in MiB, that is kept free; None: a twentieth of the file system, at most 2 GiB (sandpit.lib.diskspace)."""
    allow_ranges: tuple[IPv4Network, ...] = ()
    """Private ranges that the operator opens to all sandboxes."""
    sandbox_flows: int = 2048
    """Connections (and what UDP and ICMP have of that kind) that one sandbox may have open to the world."""
    name_servers: tuple[str, ...] = ()
    """Addresses of the name servers that resolve for sandboxes; none: those of the host."""

    builds_at_once: int = 2
    """Template builds that run at the same time."""
    build_seconds: float = 3600.0
    """How long one may take, waiting not counted."""
    layer_cache_hours: float = 7 * 24.0
    """How long a layer that no template has is kept for builds that could use it again."""
    image_mb: int = 20480
    """What an image's layers may unpack to, each, in MiB."""
    registry_mirrors: Mapping[str, str] = field(default_factory=dict)
    """By registry: the operator's mirror."""
    insecure_registries: tuple[str, ...] = ()
    """Registries that speak plain HTTP."""
    trust: Trust = field(default_factory=Trust)
    """Certificates and proxy settings that sandboxes get."""

    def __post_init__(self) -> None:
        """Refuse names that could not be part of an interface's name."""
        if not (self.name.isalnum() and self.name.isascii() and self.name.islower() and len(self.name) <= 8):
            raise ValueError(f"node name {self.name!r} must be 1 to 8 lower-case letters and digits")

    @property
    def images_dir(self) -> Path:
        """One directory per template build, with its `image.json`."""
        return self.data_dir / "images"

    @property
    def build_dir(self) -> Path:
        """What template builds need for a moment, and what they remember."""
        return self.data_dir / "build"

    @property
    def layers_dir(self) -> Path:
        """Root file system layers, shared by all templates."""
        return self.data_dir / "layers"

    @property
    def snapshots_dir(self) -> Path:
        """Checkpoints of booted templates."""
        return self.data_dir / "snapshots"

    @property
    def sandboxes_dir(self) -> Path:
        """One directory per sandbox: bundle, record, disk."""
        return self.data_dir / "sandboxes"

    @property
    def roots_dir(self) -> Path:
        """Root file systems in the form a runtime starts from."""
        return self.data_dir / "roots"

    @property
    def closures_dir(self) -> Path:
        """Guest closures by name; they never change."""
        return self.data_dir / "closure"

    @property
    def closure_mounts_dir(self) -> Path:
        """Where guest closures are mounted read-only for all sandboxes."""
        return self.run_dir / "closure"

    @property
    def sandbox_snapshots_dir(self) -> Path:
        """Snapshots of sandboxes that tenants used: paused ones, and those kept under a name."""
        return self.data_dir / "sandbox-snapshots"

    def written_dirs(self) -> list[Path]:
        """Where builds and templates are written to: each may be a file system of its own."""
        found = (self.data_dir, self.build_dir, self.layers_dir, self.roots_dir, self.snapshots_dir, self.sandboxes_dir)
        return [path for path in found if path.exists()]

    @property
    def veth_prefix(self) -> str:
        """Interface names are this plus the slot's number."""
        return f"{self.name}-"
