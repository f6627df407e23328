"""Bringing up sandboxes that belong to nobody yet: from a template's snapshot, by a cold boot, or from a snapshot of a sandbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from sandpit.diskspace import DiskSpace
from sandpit.node import images
from sandpit.node.admission import Admission
from sandpit.node.agent import AgentUnavailable
from sandpit.node.config import NodeConfig
from sandpit.node.contract import SandboxSpec
from sandpit.node.launcher import Launcher, Sandbox, Source
from sandpit.node.runtime.base import RuntimeFailed
from sandpit.node.snapshots import Manifest
from sandpit.node.snapshotter import Snapshotter
from sandpit.node.templates import Templates

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
    ) -> None:
        """Use the given parts; they belong to the caller."""
        self._config = config
        self._launcher = launcher
        self._admission = admission
        self._templates = templates
        self._snapshotter = snapshotter
        self._space = DiskSpace(config.disk_reserve_mb)

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
                if (why := self._snapshotter.restorable(manifest)) is None:
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


def _keep() -> None:
    """Hold a place until the start has ended: its programs are the product's own."""
