"""The seam to OCI runtimes: a sandbox is a bundle run by a runtime binary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sandpit.node.contract import NodeError
from sandpit.node.processes import ProcessId
from sandpit.node.slots import Slot


class RuntimeFailed(NodeError):
    """The runtime could not do what it was asked for."""


class SnapshotUnsupported(RuntimeFailed):
    """This runtime cannot take or restore snapshots of live processes here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use."""

    cpu_count: int
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
    """The guest closure, mounted read-only at /.sandpit."""
    slot: Slot
    limits: Limits
    cgroup: str
    """Path of the container's group below each hierarchy's root."""


class Runtime(Protocol):
    """One OCI runtime. A container's processes go on when this process ends."""

    name: str

    def release(self) -> str:
        """A digest of the runtime binary: snapshots restore with the same one only."""

    def snapshots(self) -> bool:
        """Whether checkpoint and restore of live processes work here."""

    async def root(self, layers: Sequence[Path], store: Path) -> Path:
        """Bring layers, bottom first, into the form this runtime starts from; kept in `store`. Raises: NodeError, OSError."""

    async def boot(self, plan: Plan) -> ProcessId:
        """Start a container from its root file system; returns its first host process. Raises: RuntimeFailed."""

    async def restore(self, plan: Plan, image: Path) -> ProcessId:
        """Start a container from a checkpoint. Raises: RuntimeFailed, SnapshotUnsupported."""

    async def checkpoint(self, container_id: str, image: Path, *, leave_running: bool) -> None:
        """Write a checkpoint into the empty directory `image`. Raises: RuntimeFailed, SnapshotUnsupported."""

    async def name_host(self, process: ProcessId, name: str) -> None:
        """Set a running container's host name, if its own root may not. Raises: OSError."""

    async def forget(self, plan_bundle: Path, container_id: str) -> None:
        """Remove what the runtime keeps about a container whose processes are dead."""
