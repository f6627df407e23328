"""Taking snapshots of running sandboxes, and what to start a sandbox from again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sandpit.contract.errors import AgentUnresponsive, DiskFull, NodeError, unwritable
from sandpit.contract.node import SnapshotInfo
from sandpit.lib.diskspace import Claim, DiskSpace
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.guests.quiet import quiesce
from sandpit.node.host.processors import processor_features
from sandpit.node.runtime.base import Runtime, RuntimeFailed
from sandpit.node.sandboxes.launcher import Launcher, Sandbox, Source
from sandpit.node.sandboxes.meter import snapshot_bytes
from sandpit.node.snapshots import images
from sandpit.node.snapshots.closures import Closures
from sandpit.node.snapshots.store import DISK, Manifest, SnapshotStore

log = logging.getLogger(__name__)

_TAR_OVERHEAD = 2
"""How much larger than the disk its tar stream may be: small files take more room there."""
_NO_SPACE = "no space left on device"
"""How a runtime's command says that the disk became full under it."""
_ANSWER_SECONDS = 5.0
"""How long an agent may take to answer before its sandbox counts as unresponsive; a busy one takes milliseconds."""


class Snapshotter:
    """Keeps states of sandboxes, and finds them again."""

    def __init__(self, config: NodeConfig, launcher: Launcher, closures: Closures, closure: str) -> None:
        """`closure` names the one that new sandboxes run from. The parts belong to the caller."""
        self._config = config
        self._launcher = launcher
        self._closures = closures
        self._closure = closure
        self._space = DiskSpace(config.disk_reserve_mb)
        self.store = SnapshotStore(config.sandbox_snapshots_dir)

    async def announce(self, sandbox: Sandbox) -> None:
        """See Node.announce_snapshot. What does not answer now would not after a restore."""
        sandbox.responsive = False
        try:
            await sandbox.agent.freeze(_ANSWER_SECONDS)
        except AgentUnavailable as error:
            raise AgentUnresponsive(
                f"the agent of sandbox {sandbox.sandbox_id} did not answer within {_ANSWER_SECONDS:g} s; the sandbox goes on"
            ) from error
        sandbox.responsive = True

    async def take(self, sandbox: Sandbox, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        """See Node.snapshot. If the sandbox was to end, it is dying when this returns; in every other case it goes on.

        A kill interrupts it: it is cancelled, leaves no files, and asks a sandbox that is ending for nothing.
        """
        began = time.monotonic()
        memory = memory and self._launcher.runtime_named(sandbox.runtime).snapshots()
        try:
            size = snapshot_bytes(sandbox, memory=memory)
            with self._space.claimed(self._config.sandbox_snapshots_dir, size, "this snapshot") as claim:
                async with self._staged(snapshot_id) as staging:
                    complete = await self._write(sandbox, snapshot_id, staging, claim, memory=memory, end=end)
                    if not end:
                        await self.go_on(sandbox)
        except BaseException as error:
            await asyncio.shield(self.go_on(sandbox))
            if isinstance(error, OSError):
                raise unwritable("the snapshot could not be written", error) from error
            if isinstance(error, RuntimeFailed) and _NO_SPACE in str(error).lower():
                raise DiskFull(f"the snapshot could not be written: {error}") from error
            raise
        if end:
            # Frozen, it does nothing more, and its snapshot is durable: nobody need wait until the kernel has taken its memory back.
            sandbox.ending = True
            sandbox.process.kill()
        took = time.monotonic() - began
        log.info("snapshot %s (%s): %d MiB in %.3f s", snapshot_id, complete.kind, complete.info().size >> 20, took)
        return complete.info()

    @asynccontextmanager
    async def _staged(self, snapshot_id: str) -> AsyncIterator[Path]:
        """Where a snapshot is written. Unless the block ends well nothing of it stays, published or not. Raises: NodeError, OSError."""
        staging = self.store.begin(snapshot_id)
        try:
            yield staging
        except BaseException:
            await asyncio.to_thread(self.store.abandon, staging)
            raise
        self.store.settle(staging)

    async def _write(
        self, sandbox: Sandbox, snapshot_id: str, staging: Path, claim: Claim, *, memory: bool, end: bool
    ) -> Manifest:
        """Write and publish a snapshot, and leave its sandbox frozen. Raises: NodeError, OSError."""
        keep = self._launcher.runtime_named(sandbox.runtime).keep_release_of
        await asyncio.to_thread(keep, sandbox.process, sandbox.release)
        runtime = self._launcher.runtime_of_sandbox(
            sandbox
        )  # before anything is done to it: without this there is no way back
        root = await asyncio.to_thread(runtime.root_of, sandbox.directory / "bundle") if memory else ""
        manifest = self._manifest(sandbox, snapshot_id, root, memory=memory)
        if memory:
            await self._save_memory(sandbox, runtime, staging, claim)
        else:
            await self._save_disk(sandbox, runtime, staging, claim, end=end)
        return await asyncio.to_thread(self.store.commit, staging, manifest)

    async def _save_memory(self, sandbox: Sandbox, runtime: Runtime, staging: Path, claim: Claim) -> None:
        """Frozen first and left running: whatever fails, the sandbox can go on, and nothing happens in it that is not in the snapshot."""
        await quiesce(sandbox)
        await runtime.freeze(sandbox.container_id, sandbox.cgroup)
        claim.grow(snapshot_bytes(sandbox, memory=True))  # it may have grown until it was frozen
        await runtime.checkpoint(sandbox.container_id, staging, leave_running=True)

    async def _save_disk(self, sandbox: Sandbox, runtime: Runtime, staging: Path, claim: Claim, *, end: bool) -> None:
        await runtime.freeze(sandbox.container_id, sandbox.cgroup)
        claim.grow(snapshot_bytes(sandbox, memory=False))
        if await runtime.copy_disk(sandbox.directory / "bundle", staging / DISK):
            return
        await runtime.thaw(sandbox.container_id, sandbox.cgroup)
        limit = (sandbox.image.disk_mb << 20) * _TAR_OVERHEAD
        await sandbox.agent.save_disk(staging / DISK, stop_processes=end, limit=limit, claim=claim.write)

    async def go_on(self, sandbox: Sandbox) -> None:
        """Let a sandbox run, frozen or not; one that has died meanwhile is no news here."""
        if sandbox.ending or not sandbox.process.alive():
            return
        try:
            await self._launcher.runtime_of_sandbox(sandbox).thaw(sandbox.container_id, sandbox.cgroup)
            await sandbox.agent.unfreeze(_ANSWER_SECONDS)
        except NodeError as error:
            log.error("sandbox %s may not have gone on after a snapshot: %s", sandbox.sandbox_id, error)

    def _manifest(self, sandbox: Sandbox, snapshot_id: str, root: str, *, memory: bool) -> Manifest:
        return Manifest(
            snapshot_id,
            sandbox.image.build_id,
            "memory" if memory else "filesystem",
            sandbox.runtime,
            sandbox.release,
            _processor(),
            sandbox.closure,
            responsive=sandbox.responsive or not memory,  # a boot brings another agent
            secret=sandbox.agent.secret.current if memory else "",
            started_with=True,
            root=root,
        )

    async def prepare(self, living: Collection[str]) -> None:
        """Bring the directory in order, and forget releases that no snapshot and no living sandbox needs. Raises: OSError."""
        await asyncio.to_thread(self.store.prepare)
        needed = {*living, *(manifest.release for manifest in self.store.all() if manifest.kind == "memory")}
        for runtime in self._launcher.runtimes():
            await asyncio.to_thread(runtime.forget_releases, needed)

    def restorable(self, manifest: Manifest, *, resumed: bool) -> str | None:
        """Why a snapshot's memory cannot be restored here; None when it can, or has none. `resumed`: for the sandbox that it is of.

        That one goes on with the agent that it has, as if it had not been paused; copies of an agent without a secret are not made.
        """
        if manifest.kind != "memory":
            return None
        if not manifest.secret and not resumed:
            return "its agent would believe whoever has the gateway's address (it is from before control calls had a secret)"
        if not self._launcher.runtime_named(manifest.runtime).same_binary(manifest.release):
            return "another release of the runtime took it"
        if manifest.processor != _processor():
            return "it was taken on another kind of processor"
        if not self._closures.has(manifest.closure):
            return "the guest programs that it ran are no longer there"
        return None

    async def restore(
        self, manifest: Manifest, *, answers: bool = True, begun: Callable[[], None] = lambda: None
    ) -> Sandbox:
        """Let a copy of the sandbox go on; it belongs to nobody yet. `answers` is whether to wait for its agent; `begun`: see `launch`.

        Raises: SnapshotDamaged, NodeError.
        """
        runtime = self._its_release(manifest)
        try:
            return await self._restore(manifest, runtime, answers, begun)
        except RuntimeFailed as error:
            others = () if manifest.started_with else runtime.other_ways()
            for other in others:
                log.warning("snapshot %s does not restore as its server noted: %s", manifest.snapshot_id, error)
                with contextlib.suppress(RuntimeFailed):
                    return await self._restore(manifest, other, answers, begun)
            raise

    async def _restore(self, manifest: Manifest, runtime: Runtime, answers: bool, begun: Callable[[], None]) -> Sandbox:
        source = await self._source(manifest, runtime, snapshot=self.store.path(manifest.snapshot_id))
        verified = asyncio.ensure_future(asyncio.to_thread(self.store.verify, manifest))
        try:
            sandbox = await self._launcher.launch(source, answers=answers, begun=begun)
        except asyncio.CancelledError:
            verified.cancel()  # who kills it does not wait until gigabytes were read
            raise
        except Exception:
            await asyncio.shield(verified)  # damage is the better explanation of a failure
            raise
        try:
            await verified
        except BaseException:
            await asyncio.shield(self._launcher.discard(sandbox))
            raise
        return sandbox

    @asynccontextmanager
    async def disk_source(self, manifest: Manifest, begun: Callable[[], None]) -> AsyncIterator[Source]:
        """What to boot from, without the processes that a snapshot may hold. `begun`: see `Launcher.launch`.

        Raises: SnapshotDamaged, NodeError.
        """
        if manifest.kind == "filesystem":
            await asyncio.to_thread(self.store.verify, manifest)
            runtime = self._launcher.runtime_named(manifest.runtime)
            yield await self._source(manifest, runtime, disk=self.store.path(manifest.snapshot_id) / DISK)
            return
        staging = await asyncio.to_thread(self.store.begin, f"{manifest.snapshot_id}-disk")
        try:
            await self._extract(manifest, staging / DISK, begun)
            runtime = self._launcher.runtime_named(manifest.runtime)
            yield await self._source(manifest, runtime, disk=staging / DISK)
        finally:
            await asyncio.to_thread(self.store.abandon, staging)

    async def _extract(self, manifest: Manifest, disk: Path, begun: Callable[[], None]) -> None:
        """Read the file system out of a memory snapshot: a copy is restored for as long as it takes, its processes stopped."""
        sandbox = await self.restore(manifest, answers=manifest.responsive, begun=begun)
        try:
            limit = (sandbox.image.disk_mb << 20) * _TAR_OVERHEAD
            if manifest.responsive and manifest.secret:
                with self._space.claimed(disk.parent, 0, "the file system of a snapshot") as claim:
                    await sandbox.agent.save_disk(disk, stop_processes=True, limit=limit, claim=claim.write)
            else:
                export = self._launcher.runtime_of_sandbox(sandbox).export_disk(sandbox.container_id, disk, limit)
                await self._space.guard([disk.parent], export, "the file system of a snapshot")
        finally:
            await asyncio.shield(self._launcher.discard(sandbox))

    async def _source(
        self, manifest: Manifest, runtime: Runtime, *, snapshot: Path | None = None, disk: Path | None = None
    ) -> Source:
        image = images.load(self._config, manifest.build_id)
        layers = tuple(images.layer_paths(self._config, image))
        root = await self._root(manifest if snapshot else None, runtime, images.split(image, layers)[0])
        closure = self._closures.mounted(manifest.closure if snapshot else self._closure)
        return Source(image, layers, root, closure, snapshot, runtime, disk, manifest.secret)

    async def _root(self, manifest: Manifest | None, runtime: Runtime, layers: Sequence[Path]) -> Path:
        """The root file system to boot from, or the one that a snapshot's memory refers to. Raises: NodeError, OSError."""
        store = self._config.roots_dir
        if manifest is None:
            return await runtime.root(layers, store)
        if manifest.root and (store / manifest.root).is_file():
            return store / manifest.root
        made = await runtime.root(layers, store, former=not manifest.secret)
        if manifest.root not in ("", made.name):
            raise NodeError(
                f"snapshot {manifest.snapshot_id} needs the root file system {manifest.root}, which is gone"
            )
        return made

    def _its_release(self, manifest: Manifest) -> Runtime:
        """The release that took a snapshot. Raises: NodeError when it is gone."""
        what = f"snapshot {manifest.snapshot_id}"
        return self._launcher.runtime_of_release(manifest.runtime, manifest.release, what)


def _processor() -> str:
    return hashlib.sha256(processor_features().encode()).hexdigest()[:16]
