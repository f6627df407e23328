"""A `sandpit.node.contract.Node` that keeps its sandboxes in a dict: the API and control tests run against it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sandpit.node.contract import (
    NetworkPolicy,
    NodeError,
    RunningSandbox,
    SandboxGone,
    SandboxMetric,
    SandboxSpec,
    TemplateImage,
    UnknownSandbox,
    UnknownTemplateBuild,
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
        self.fail_create: NodeError | None = None
        self.fail_kill: NodeError | None = None
        self.hold_create: asyncio.Event | None = None
        self.hold_kill: asyncio.Event | None = None
        self.creating = asyncio.Event()
        self.killing = asyncio.Event()
        self.killed: list[str] = []
        self.running = False
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

    def templates(self) -> Sequence[TemplateImage]:
        return self.images

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        self.creating.set()
        if self.hold_create is not None:
            await self.hold_create.wait()
        if self.fail_create is not None:
            raise self.fail_create
        if spec.build_id not in {image.build_id for image in self.images}:
            raise UnknownTemplateBuild(f"build {spec.build_id} is not on this node")
        self.machine[spec.sandbox_id] = spec
        self.policies[spec.sandbox_id] = spec.network
        return RunningSandbox(spec.sandbox_id, "10.0.0.1", started_warm=True)

    async def kill(self, sandbox_id: str) -> None:
        self.killing.set()
        if self.hold_kill is not None:
            await self.hold_kill.wait()
        if self.fail_kill is not None:
            raise self.fail_kill
        if self.machine.pop(sandbox_id, None) is None:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        self.killed.append(sandbox_id)

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        self.policies[sandbox_id] = policy

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        if sandbox_id not in self.machine:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node")
        return SandboxMetric(time.time(), 2, 12.5, 100 << 20, 512 << 20, 10 << 20, 5 << 30, 10 << 30)

    async def crash(self, sandbox_id: str, reason: str) -> None:
        """The sandbox ends on its own."""
        self.machine.pop(sandbox_id, None)
        assert self._gone is not None
        await self._gone(sandbox_id, reason)
