"""A `sandpit.contract.node.Node` that keeps its sandboxes in a dict: the API and control tests run against it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sandpit.contract.builder import BuildFailed, BuildFiles, BuildReport, BuildSpec
from sandpit.contract.errors import AgentUnresponsive, NodeError, UnknownSandbox, UnknownSnapshot, UnknownTemplateBuild
from sandpit.contract.node import (
    GuestEvents,
    NetworkPolicy,
    RunningSandbox,
    SandboxGone,
    SandboxMetric,
    SandboxSpec,
    SnapshotInfo,
    TemplateImage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = TemplateImage(
    template_id="base0000000000000000",
    build_id="11111111-1111-4111-8111-111111111111",
    names=("base",),
    cpu_count=2,
    memory_mb=512,
    disk_mb=1024,
    runtime="memory",
)
INTERPRETER = TemplateImage(
    template_id="code0000000000000000",
    build_id="22222222-2222-4222-8222-222222222222",
    names=("code-interpreter-v1", "code-interpreter-stateful:v2"),
    cpu_count=2,
    memory_mb=1024,
    disk_mb=2048,
    runtime="memory",
)


class MemoryNode:
    """Starts and ends sandboxes at once. `machine` is what outlives the process: give it to the next node."""

    def __init__(
        self, machine: dict[str, SandboxSpec] | None = None, images: Sequence[TemplateImage] = (BASE, INTERPRETER)
    ) -> None:
        self.machine: dict[str, SandboxSpec] = {} if machine is None else machine
        self.policies: dict[str, NetworkPolicy] = {}
        self.images = tuple(images)
        self.built: list[BuildSpec] = []
        self.hold_build: asyncio.Event | None = None
        self.fail_create: NodeError | None = None
        self.fail_kill: NodeError | None = None
        self.hold_create: asyncio.Event | None = None
        self.hold_kill: asyncio.Event | None = None
        self.creating = asyncio.Event()
        self.killing = asyncio.Event()
        self.killed: list[str] = []
        self.touched: list[str] = []
        self.kept: dict[str, SnapshotInfo] = {}
        self.fail_snapshot: NodeError | None = None
        self.mute: set[str] = set()
        """Sandboxes whose agent does not answer."""
        self.hold_snapshot: asyncio.Event | None = None
        self.saving = asyncio.Event()
        self.running = False
        self.followed: dict[str, int] = {}
        """From where on each sandbox is followed."""
        self._gone: SandboxGone | None = None

    async def start(self) -> Sequence[RunningSandbox]:
        self.running = True
        return [RunningSandbox(sandbox_id, "10.0.0.1") for sandbox_id in self.machine]

    async def stop(self, *, kill_sandboxes: bool) -> None:
        self.running = False
        if kill_sandboxes:
            self.machine.clear()

    def on_gone(self, callback: SandboxGone) -> None:
        self._gone = callback

    def on_events(self, callback: GuestEvents) -> None:
        self.tell = callback

    def follow(self, sandbox_id: str, after: int) -> None:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        self.followed[sandbox_id] = after

    def templates(self) -> Sequence[TemplateImage]:
        return self.images

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        self.creating.set()
        if self.hold_create is not None:
            await self.hold_create.wait()
        if self.fail_create is not None:
            raise self.fail_create
        if spec.snapshot_id is not None:
            if spec.snapshot_id not in self.kept:
                raise UnknownSnapshot(f"snapshot {spec.snapshot_id} is not on this node")
            spec = replace(spec, build_id=self.kept[spec.snapshot_id].build_id)
        if spec.build_id not in {*(image.build_id for image in self.images), *self.builds()}:
            raise UnknownTemplateBuild(f"build {spec.build_id} is not on this node")
        self.machine[spec.sandbox_id] = spec
        self.policies[spec.sandbox_id] = spec.network
        return RunningSandbox(spec.sandbox_id, "10.0.0.1", started_warm=True)

    def touch(self, sandbox_id: str) -> None:
        self.touched.append(sandbox_id)

    def seal(self) -> None:
        """It does nothing but stop."""

    async def kill_all(self) -> None:
        """The calls of `kill` that follow do it."""

    async def kill(self, sandbox_id: str) -> None:
        self.killing.set()
        if self.hold_kill is not None:
            await self.hold_kill.wait()
        if self.fail_kill is not None:
            raise self.fail_kill
        if self.machine.pop(sandbox_id, None) is None:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        self.killed.append(sandbox_id)

    async def announce_snapshot(self, sandbox_id: str) -> None:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        if sandbox_id in self.mute:
            raise AgentUnresponsive("no answer")

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        self.saving.set()
        if self.hold_snapshot is not None:
            await self.hold_snapshot.wait()
        if self.fail_snapshot is not None:
            raise self.fail_snapshot
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        responsive = sandbox_id not in self.mute or not memory
        info = SnapshotInfo(snapshot_id, self.machine[sandbox_id].build_id, memory, 1 << 20, responsive)
        self.kept[snapshot_id] = info
        if end:
            del self.machine[sandbox_id]
        return info

    async def remove_snapshot(self, snapshot_id: str) -> None:
        self.kept.pop(snapshot_id, None)

    def snapshots(self) -> Sequence[SnapshotInfo]:
        return list(self.kept.values())

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        self.policies[sandbox_id] = policy

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        return SandboxMetric(time.time(), 2, 12.5, 100 << 20, 512 << 20, 10 << 20, 5 << 30, 10 << 30)

    async def build(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> TemplateImage:
        report(f"building {spec.name}")
        if self.hold_build is not None:
            await self.hold_build.wait()
        if any(step.args == ("false",) for step in spec.steps):
            raise BuildFailed("exit status 1", "1")
        self.built.append(spec)
        return TemplateImage(
            spec.template_id, spec.build_id, (spec.name,), spec.cpu_count, spec.memory_mb, 1024, "memory"
        )

    async def remove_build(self, build_id: str) -> None:
        self.built = [spec for spec in self.built if spec.build_id != build_id]

    async def build_bytes(self, tenant: str) -> int:
        return sum(1 << 20 for spec in self.built if spec.tenant == tenant)

    def builds(self) -> Sequence[str]:
        return [spec.build_id for spec in self.built]

    async def crash(self, sandbox_id: str, reason: str) -> None:
        """The sandbox ends on its own."""
        self.machine.pop(sandbox_id, None)
        assert self._gone is not None
        await self._gone(sandbox_id, reason)
