"""Bringing up sandboxes that belong to nobody yet: from a template's snapshot, by a cold boot, or from a snapshot of a sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from sandpit.contract.errors import CapacityExhausted, NodeError
from sandpit.contract.node import SandboxSpec
from sandpit.lib.diskspace import DiskSpace
from sandpit.lib.tasks import Tasks
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.pool.admission import Admission
from sandpit.node.runtime.base import RuntimeFailed
from sandpit.node.sandboxes.launcher import Launcher, Sandbox, Source
from sandpit.node.snapshots import images
from sandpit.node.snapshots.snapshotter import Snapshotter
from sandpit.node.snapshots.store import Manifest
from sandpit.node.snapshots.templates import Templates

T = TypeVar("T")
log = logging.getLogger(__name__)
START_BYTES = 8 << 20
"""What a sandbox takes on the disk before it writes anything, at most: its bundle, and the frame of its file system."""
_POOL = "the pool"
"""The tenant that sandboxes are started for ahead of demand."""


class Starter:
    """Starts sandboxes, each in its turn; one that fails to start leaves nothing behind."""

    def __init__(
        self,
        config: NodeConfig,
        launcher: Launcher,
        admission: Admission,
        templates: Templates,
        snapshotter: Snapshotter,
        tasks: Tasks,
    ) -> None:
        """Use the given parts; they belong to the caller. What comes too late is undone in `tasks`."""
        self._tasks = tasks
        self._config = config
        self._launcher = launcher
        self._admission = admission
        self._templates = templates
        self._snapshotter = snapshotter
        self._space = DiskSpace(config.disk_reserve_mb)

    async def in_time(self, build_id: str, tenant: str) -> Sandbox:
        """Like `from_template`, for somebody who waits: fails when it takes too long. Raises: as `from_template`."""
        deadline = time.monotonic() + self._config.create_seconds
        # Whoever is the first to ask makes the template's snapshot, for all: that goes on.
        preparing = asyncio.ensure_future(self._templates.source(build_id))
        await self._by(deadline, preparing, _settled(preparing))
        starting = asyncio.ensure_future(self.from_template(build_id, tenant))
        return await self._by(deadline, starting, self._undo(starting))

    async def _by(self, deadline: float, work: asyncio.Future[T], settle: Coroutine[Any, Any, None]) -> T:
        """The result of `work`, which is left to `settle` when it is late, or when the caller goes away. Raises: CapacityExhausted."""
        try:
            await asyncio.wait({work}, timeout=max(0.0, deadline - time.monotonic()))
        finally:
            if work.done():
                settle.close()
            else:
                self._tasks.spawn(settle, "a start that took too long")
        if work.done():
            return work.result()
        raise CapacityExhausted(
            f"the sandbox did not start within {self._config.create_seconds:g} s: this node has too much to do, try again later"
        )

    async def _undo(self, starting: asyncio.Future[Sandbox]) -> None:
        """End a start that nobody waits for any more, or the sandbox that it came to."""
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, NodeError, OSError, TimeoutError):
            await self._launcher.discard(await starting)

    async def from_template(self, build_id: str, tenant: str) -> Sandbox:
        """Start a sandbox of a template build. Raises: UnknownTemplateBuild, CapacityExhausted, NodeError."""
        source = await self._templates.source(build_id)
        async with self._admission.turn(source.image, tenant) as release:
            # A tenant's template runs a tenant's programs as soon as it goes on from its snapshot.
            begun = release if source.image.owner else _keep
            if source.snapshot is None:
                return await self._boot(source, begun)
            try:
                return await self._launcher.launch(source, begun=begun)
            except (RuntimeFailed, AgentUnavailable) as error:
                # A snapshot that does not restore costs time, not the sandbox.
                log.warning("the snapshot of %s does not restore, booting cold: %s", source.image.names, error)
                self._templates.distrust(source)
                return await self._boot(replace(source, snapshot=None), begun)

    async def ahead(self, build_id: str) -> Sandbox:
        """Start a sandbox that has time until it is wanted. Raises: as `from_template`."""
        with self._space.claimed(self._config.sandboxes_dir, START_BYTES, "a waiting sandbox"):
            sandbox = await self.from_template(build_id, _POOL)
        try:
            await self._templates.rehearse(sandbox)
            self._launcher.doze(sandbox)
        except BaseException:
            await asyncio.shield(self._launcher.discard(sandbox))
            raise
        return sandbox

    async def from_snapshot(self, snapshot_id: str, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox from a snapshot of one. Raises: UnknownSnapshot, SnapshotDamaged, CapacityExhausted, NodeError."""
        manifest = await asyncio.to_thread(self._snapshotter.store.read, snapshot_id)
        with self._space.claimed(self._config.sandboxes_dir, manifest.stored, "a sandbox made of a snapshot"):
            return await self._from_snapshot(manifest, spec)

    async def _from_snapshot(self, manifest: Manifest, spec: SandboxSpec) -> Sandbox:
        """What the snapshot has of files and memory goes to the disk again: nothing is shared with it."""
        image = images.load(self._config, manifest.build_id)
        async with self._admission.turn(image, spec.tenant) as release:
            if manifest.kind == "memory" and spec.memory:
                if (why := self._snapshotter.restorable(manifest, resumed=spec.resumed)) is None:
                    return await self._snapshotter.restore(manifest, begun=release)
                log.warning(
                    "snapshot %s boots from its file system, its processes are lost: %s", manifest.snapshot_id, why
                )
            async with self._snapshotter.disk_source(manifest, release) as source:
                return await self._boot(source, release)

    async def _boot(self, source: Source, begun: Callable[[], None]) -> Sandbox:
        sandbox = await self._launcher.launch(source, begun=begun)
        try:
            await self._templates.start_up(sandbox)
        except BaseException:
            await asyncio.shield(self._launcher.discard(sandbox))
            raise
        return sandbox


async def _settled(work: asyncio.Future[Any]) -> None:
    """Wait until something has ended, whatever comes of it: others hear of it, too."""
    with contextlib.suppress(NodeError, OSError, TimeoutError):
        await work


def _keep() -> None:
    """Hold a place until the start has ended: its programs are the product's own."""
