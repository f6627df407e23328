"""The seam to OCI runtimes: a sandbox is a bundle run by a runtime binary."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sandpit.contract.errors import NodeError
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.host.processes import ProcessId
from sandpit.node.network.slots import Slot
from sandpit.node.runtime.boundedlog import BoundedLog


class RuntimeFailed(NodeError):
    """The runtime could not do what it was asked for."""


class SnapshotUnsupported(RuntimeFailed):
    """This runtime cannot take or restore snapshots of live processes here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use. `cpus` is its vCPUs, or what all sandboxes together may use if that is less: v1 groups refuse more."""

    cpus: float
    memory_mb: int
    disk_mb: int
    pids: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a runtime needs to make a container."""

    container_id: str
    bundle: Path
    """Directory of this container alone; the runtime writes config.json and what else it needs into it."""
    layers: tuple[Path, ...]
    """Root file system layers, bottom first; never written to."""
    root: Path
    """What `Runtime.root` made of them."""
    closure: Path
    """The guest closure through a read-only mount, to be bound at /.sandpit."""
    slot: Slot
    limits: Limits
    cgroup: str
    """Path of the container's group below each hierarchy's root."""
    log: BoundedLog
    """Where the runtime's command and the first process print to. Belongs to the caller."""
    disk: Path | None = None
    """At boot: what an earlier life has written, as `Runtime.copy_disk` or the agent gave it. Belongs to the snapshot; not written to."""
    handover: bytes = field(default=b"", repr=False)
    """At boot: what the first process reads on its standard input, less than a pipe holds. A restored one has read its own."""


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A process in a container, by what it says of itself: its name can be anything."""

    pid: int
    """As it is seen inside."""
    name: str
    """At most 15 characters."""
    resident: int
    """Bytes of memory that it has mapped and used."""
    adjustment: int = 0
    """`oom_score_adj` (proc(5)): thousandths of all memory that it counts as larger. 0 where the runtime does not tell."""
    host: ProcessId | None = None
    """The same process on the host, if it has one there."""


class Runtime(Protocol):
    """One OCI runtime. A container's processes go on when this process ends."""

    name: str
    stacks_layers: bool
    """Whether a sandbox's root is the layers themselves; otherwise it is one file, made of them ahead (`root`)."""
    own_memory_mb: int
    """Of a container's limit, what is meant for the runtime's own processes, in MiB."""

    def release(self) -> str:
        """The runtime binary, by a digest, and the way it is run: snapshots restore with the same one only. Raises: OSError."""

    def keep_release(self) -> None:
        """Keep this binary until `forget_releases`, and run the kept one, whatever is installed later. Raises: OSError."""

    def keep_release_of(self, process: ProcessId, recorded: str) -> str:
        """Keep the binary that a running container was started with; returns the release that it is of.

        `recorded` is what its record says of that; empty in one from before releases were recorded. Raises: OSError.
        """

    def of_release(self, release: str) -> Runtime | None:
        """The driver of a release, this one or another whose binary was kept."""

    def same_binary(self, release: str) -> bool:
        """Whether a release is this one, or differs in the way its binary is run only."""

    def other_ways(self) -> Sequence[Runtime]:
        """The drivers that run the same binary in another way."""

    def forget_releases(self, needed: Collection[str]) -> None:
        """Remove kept binaries but those that are needed. Raises: OSError."""

    def snapshots(self) -> bool:
        """Whether checkpoint and restore of live processes work here."""

    async def root(self, layers: Sequence[Path], store: Path, *, former: bool = False) -> Path:
        """Bring layers, bottom first, into the form this runtime starts from; kept in `store`. Raises: NodeError, OSError.

        `former` is for snapshots that do not name theirs: the form that servers up to 0.1 made.
        """

    def root_of(self, bundle: Path) -> str:
        """The name of the file in that store which a container was started from, if a snapshot needs the same. Raises: OSError."""

    async def boot(self, plan: Plan) -> ProcessId:
        """Start a container from its root file system; returns its first host process. Raises: RuntimeFailed."""

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """Start a container from a checkpoint. Raises: RuntimeFailed, SnapshotUnsupported."""

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """Write a checkpoint into the empty directory `image`. Raises: RuntimeFailed, SnapshotUnsupported."""

    async def freeze(self, container_id: str, cgroup: Cgroup) -> None:
        """Let no process of a container run until `thaw`. Raises: RuntimeFailed."""

    async def thaw(self, container_id: str, cgroup: Cgroup) -> None:
        """Let a container's processes run, whether it is frozen or not. Raises: RuntimeFailed."""

    async def copy_disk(self, bundle: Path, target: Path) -> bool:
        """Copy all that a frozen container has written into a file; False: the host cannot, only its agent. Raises: RuntimeFailed."""

    async def export_disk(self, container_id: str, target: Path, limit: int) -> None:
        """Write all that a running container has written into a new file, as its agent would: for one whose agent does not answer.

        The container is not believed about the size: beyond `limit` bytes it fails. Raises: RuntimeFailed, SnapshotUnsupported, OSError.
        """

    def written(self, bundle: Path) -> Path | None:
        """The upper directory of a container's overlay, as far as the host can see it. While it is frozen, nothing in it changes."""

    def set_timer_slack(self, process: ProcessId, seconds: float) -> None:
        """Let timers of a container's kernel fire this much late, so that wake-ups fall together; nothing if it has none of its own."""

    async def processes(self, container_id: str, cgroup: Cgroup) -> Sequence[GuestProcess]:
        """All processes of a running container but its first. The container need not cooperate. Raises: RuntimeFailed."""

    async def kill_process(self, container_id: str, process: GuestProcess) -> None:
        """Send SIGKILL to one of them; one that has ended is no error. Raises: RuntimeFailed."""

    async def name_host(self, process: ProcessId, name: str) -> None:
        """Set a running container's host name, if its own root may not. Raises: OSError."""

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """Remove what the runtime keeps about a container whose processes are dead."""
