"""This machine as a node: the life of its sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandpit.contract.builder import BuildFiles, BuildReport, BuildSpec
from sandpit.contract.errors import NodeError, UnknownSandbox, unwritable
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
from sandpit.lib import partials
from sandpit.lib.diskspace import DiskSpace, Room
from sandpit.lib.private import guarded, private
from sandpit.lib.tasks import Tasks, bounded
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.guests.tails import Tails
from sandpit.node.host.idling import Idling
from sandpit.node.host.load import Load
from sandpit.node.host.overseer import Overseer
from sandpit.node.host.share import Share
from sandpit.node.memory.report import MemoryReport
from sandpit.node.network.dns import DnsRelay
from sandpit.node.network.firewall import Firewall
from sandpit.node.network.slots import Slots
from sandpit.node.pool.admission import Admission
from sandpit.node.pool.pools import Pools
from sandpit.node.runtime.base import Runtime
from sandpit.node.sandboxes import takeover
from sandpit.node.sandboxes.building import MakeBuilder, Parts
from sandpit.node.sandboxes.claiming import claim
from sandpit.node.sandboxes.launcher import Launcher, Sandbox
from sandpit.node.sandboxes.meter import measure
from sandpit.node.sandboxes.starting import START_BYTES, Starter
from sandpit.node.snapshots import images
from sandpit.node.snapshots.closures import Closures
from sandpit.node.snapshots.snapshotter import Snapshotter
from sandpit.node.snapshots.templates import Templates

log = logging.getLogger(__name__)


class LocalNode:
    """Implements sandpit.contract.node.Node."""

    def __init__(
        self, config: NodeConfig, runtimes: Mapping[str, Runtime], closure: Path, make_builder: MakeBuilder
    ) -> None:
        """`closure` is the guest closure's directory. Nothing is touched before `start`."""
        self._config = config
        self._runtimes = runtimes
        self._firewall = Firewall(config)
        self._dns = DnsRelay(self._firewall.rules_of, self._firewall.pin, servers=config.name_servers)
        self._slots = Slots(config, self._firewall, forget=self._dns.forget)
        self._share = Share(config)
        self._load = Load(self._share.group, self._share.limits.cpus)
        self._launcher = Launcher(config, runtimes, self._slots, self._firewall, self._share.limits.cpus)
        self._idling = Idling(self._launcher.wake, self._launcher.doze)
        self._closures = Closures(config.closures_dir, config.closure_mounts_dir)
        self._closure = closure.name
        self._templates = Templates(config, self._launcher, config.closure_mounts_dir / closure.name)
        self._snapshotter = Snapshotter(config, self._launcher, self._closures, closure.name)
        self._admission = Admission(config, self._share, self._load)
        parts = Parts(config, self._launcher, self._templates, self._admission, self._slots, self._firewall)
        self._builder = make_builder(parts)
        self._space = DiskSpace(config.disk_reserve_mb)
        self._tasks = Tasks()
        """Work that must come to its end: cleaning up."""
        self._standing = Tasks()
        """Work that goes on until the node stops: watching, refilling pools."""
        self._tails = Tails(self._standing)
        self._launcher.on_memory_kill = MemoryReport(self._standing, self._tails.callbacks).killed
        self._sandboxes: dict[str, Sandbox] = {}
        self._ended_all = False
        self._callbacks: list[SandboxGone] = []
        self._starter = Starter(
            config, self._launcher, self._admission, self._templates, self._snapshotter, self._tasks
        )
        self._pools = Pools(
            config, self._templates, self._starter.ahead, self._discard, self._standing, self._admission.strained
        )

    def on_gone(self, callback: SandboxGone) -> None:
        """See Node."""
        self._callbacks.append(callback)

    def on_events(self, callback: GuestEvents) -> None:
        """See Node."""
        self._tails.callbacks.append(callback)

    def follow(self, sandbox_id: str, after: int) -> None:
        """See Node."""
        self._tails.follow(self._get(sandbox_id), after)

    async def build(self, spec: BuildSpec, files: BuildFiles, report: BuildReport) -> TemplateImage:
        """See Node."""
        return (await self._builder.build(spec, files, report)).summary()

    async def remove_build(self, build_id: str) -> None:
        """See Node. Sandboxes that run have what they run from open or mounted, and go on."""
        await self._pools.drop(build_id)
        await asyncio.to_thread(self._builder.remove, build_id)
        await self.collect_garbage()

    async def collect_garbage(self) -> None:
        """Remove the layers that no build needs; what resists is tried again when the next build goes."""
        try:
            await asyncio.to_thread(self._builder.collect)
        except (OSError, ValueError, KeyError) as error:
            log.error("layers that nothing needs stay: %r", error)

    async def build_bytes(self, tenant: str) -> int:
        """See Node."""
        try:
            return await asyncio.to_thread(self._builder.used, tenant)
        except OSError as error:
            raise NodeError(f"the disk that templates use cannot be measured: {error}") from error

    def builds(self) -> Sequence[str]:
        """See Node."""
        return [image.build_id for image in images.load_owned(self._config)]

    def templates(self) -> Sequence[TemplateImage]:
        """See Node."""
        return [image.summary() for image in images.load_all(self._config)]

    async def start(self) -> Sequence[RunningSandbox]:
        """See Node."""
        self._closures.clear()
        try:
            self._closures.mounted(self._closure)
            return await self._take_over()
        except BaseException:
            self._closures.clear()
            raise

    async def _take_over(self) -> Sequence[RunningSandbox]:
        """Prepare everything else, and find what an earlier process left."""
        for directory in (self._config.data_dir, self._config.run_dir):
            guarded(directory)
        for directory in (self._config.sandboxes_dir, self._config.snapshots_dir, self._config.roots_dir):
            private(directory)
        self._share.prepare()
        await asyncio.to_thread(partials.sweep, self._config.roots_dir)
        alive, dead = takeover.survey(self._config)
        releases = await asyncio.to_thread(takeover.keep_releases, self._launcher, [record for _, record in alive])
        await self._snapshotter.prepare(releases)
        self._builder.prepare()
        await self._firewall.install(await self._dns.start())
        await self._slots.start(record.slot for _, record in alive)
        for directory, record in dead:
            await self._launcher.sweep(directory, record.runtime if record else "")
        for (directory, record), release in zip(alive, releases, strict=True):
            sandbox = takeover.adopted(self._config, self._launcher, self._slots, directory, record, release)
            if release != record.release:
                sandbox.record().write(directory)
            await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, sandbox.policy)
            self._launcher.wake(sandbox)
            self._guard(sandbox)
            self._keep(sandbox)
        # An earlier process may have frozen some, and not lived to end or thaw them.
        await asyncio.gather(*(self._snapshotter.go_on(sandbox) for sandbox in self._sandboxes.values()))
        for image in images.load_all(self._config):
            self._pools.of(image.build_id)
        overseer = Overseer(self._load, self._idling, self._admission, self._pools)
        self._standing.spawn(overseer.run(lambda: list(self._sandboxes.values())), "looking at the load")
        return [sandbox.running() for sandbox in self._sandboxes.values()]

    def _guard(self, sandbox: Sandbox) -> None:
        """Look after the memory of one that goes on; it may be dying."""
        try:
            self._launcher.guard(sandbox)
        except OSError as error:
            log.error("the memory of sandbox %s is not looked after: %s", sandbox.sandbox_id, error)

    def kill_now(self) -> None:
        """Have every sandbox die, without waiting for anything: for a server that cannot stop in order. Blocking; from any thread."""
        for sandbox in list(self._sandboxes.values()):
            self._launcher.kill(sandbox)

    def touch(self, sandbox_id: str) -> None:
        """See Node."""
        if (sandbox := self._sandboxes.get(sandbox_id)) is not None:
            self._idling.touch(sandbox)

    async def stop(self, *, kill_sandboxes: bool) -> None:
        """See Node. What takes longer than its time is left for the next start, which finds it."""
        if kill_sandboxes:
            await self.kill_all()
        await bounded(self._pools.close(), "ending the sandboxes that wait")
        if kill_sandboxes:
            kills = (self._kill_if_there(sandbox_id) for sandbox_id in list(self._sandboxes))
            await bounded(asyncio.gather(*kills), "killing the sandboxes")
        await bounded(self._standing.close(), "ending what goes on all the time")
        await bounded(self._tasks.drain(), "cleaning up after sandboxes")
        await self._launcher.close()
        self._load.close()
        for sandbox in self._sandboxes.values():
            await sandbox.agent.close()
        await self._dns.stop()
        await self._slots.stop(keep_used=not kill_sandboxes)
        self._closures.clear()
        if not self._sandboxes:
            await self._firewall.remove()
            self._share.remove()

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        """See Node."""
        try:
            return await self._create(spec)
        except OSError as error:
            raise unwritable("this node cannot start sandboxes now", error) from error

    async def _create(self, spec: SandboxSpec) -> RunningSandbox:
        with self._space.claimed(self._config.sandboxes_dir, START_BYTES, "a sandbox"):
            return await self._start(spec)

    async def _start(self, spec: SandboxSpec) -> RunningSandbox:
        if spec.snapshot_id is not None:
            return await self._hand_out(await self._starter.from_snapshot(spec.snapshot_id, spec), spec, warm=False)
        if self._ended_all:
            raise NodeError("this node ends all its sandboxes, and starts none any more")
        images.load(self._config, spec.build_id)
        while (pooled := self._pools.of(spec.build_id).take()) is not None:
            try:
                return await self._hand_out(pooled, spec, warm=True)
            except (AgentUnavailable, OSError) as error:
                # Files of a process that is dying are gone before it counts as dead.
                dying = isinstance(error, FileNotFoundError | ProcessLookupError) or not pooled.process.alive()
                if isinstance(error, OSError) and not dying:
                    raise
                log.warning("a waiting sandbox of %s does not answer, taking another: %s", spec.build_id, error)
        return await self._hand_out(await self._starter.in_time(spec.build_id, spec.tenant), spec, warm=False)

    async def _hand_out(self, sandbox: Sandbox, spec: SandboxSpec, *, warm: bool) -> RunningSandbox:
        """Claim a sandbox; one that cannot be claimed is ended. Raises: AgentUnavailable, NodeError."""
        try:
            await claim(sandbox, spec, self._config, self._launcher, self._firewall)
            self._keep(sandbox)
        except BaseException:
            self._tasks.spawn(self._launcher.discard(sandbox), f"discard {sandbox.container_id}")
            raise
        return sandbox.running(warm=warm)

    def _keep(self, sandbox: Sandbox) -> None:
        """A sandbox that has an owner: found by id, watched."""
        assert sandbox.sandbox_id is not None
        if self._ended_all:
            raise NodeError("this node ends all its sandboxes")
        self._sandboxes[sandbox.sandbox_id] = sandbox
        self._standing.spawn(self._watch(sandbox), f"watch {sandbox.sandbox_id}")

    async def _watch(self, sandbox: Sandbox) -> None:
        """Tell when a sandbox ends on its own."""
        await sandbox.process.wait()
        if sandbox.ending or sandbox.sandbox_id is None:
            return
        sandbox.ending = True
        self._tails.stop(sandbox)
        reason = await asyncio.to_thread(sandbox.why_it_ended)
        self._sandboxes.pop(sandbox.sandbox_id, None)
        log.warning("sandbox %s ended on its own: %s", sandbox.sandbox_id, reason)
        for callback in self._callbacks:
            await callback(sandbox.sandbox_id, reason)
        await self._launcher.discard(sandbox)

    async def announce_snapshot(self, sandbox_id: str) -> None:
        """See Node."""
        self.touch(sandbox_id)
        await self._snapshotter.announce(self._get(sandbox_id))

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        """See Node."""
        sandbox = self._get(sandbox_id)
        self._idling.touch(sandbox)
        async with sandbox.busy, self._tails.away(sandbox):
            info = await self._snapshotter.take(sandbox, snapshot_id, memory=memory, end=end)
        if (
            end and self._sandboxes.pop(sandbox_id, None) is not None
        ):  # else somebody killed it meanwhile, and tidies up
            self._tasks.spawn(self._launcher.discard(sandbox), f"tidy {sandbox.container_id}")
        return info

    async def remove_snapshot(self, snapshot_id: str) -> None:
        """See Node."""
        try:
            hidden = self._snapshotter.store.hide(snapshot_id)
        except OSError as error:
            raise NodeError(f"snapshot {snapshot_id} could not be removed: {error}") from error
        if hidden is not None:
            self._tasks.spawn(asyncio.to_thread(shutil.rmtree, hidden, ignore_errors=True), f"remove {snapshot_id}")

    def snapshots(self) -> Sequence[SnapshotInfo]:
        """See Node."""
        return [manifest.info() for manifest in self._snapshotter.store.all()]

    def releases(self) -> dict[str, str]:
        """The runtimes of this node and the digests of their binaries."""
        return {name: runtime.release() for name, runtime in self._runtimes.items()}

    def share(self) -> dict[str, float]:
        """What all sandboxes together may use, and what is in use: processors and MiB of memory."""
        limits = self._share.limits
        free = self._share.available_mb()
        used = round(sum(self._load.used.values()), 2)
        return {"cpus": limits.cpus, "cpusUsed": used, "memoryMB": limits.memory_mb, "memoryFreeMB": free}

    def why_full(self) -> str | None:
        """Why no sandbox can be started now; None if one can."""
        return self._admission.why_full()

    def room(self) -> Room:
        """The disk that sandboxes and their snapshots are written to. Raises: OSError."""
        return self._space.look(self._config.data_dir)

    def pool_sizes(self) -> dict[str, int]:
        """Ready sandboxes by build id."""
        return self._pools.sizes()

    def _get(self, sandbox_id: str) -> Sandbox:
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node") from None

    def seal(self) -> None:
        """See Node."""
        self._admission.seal()
        self._pools.seal()

    async def kill_all(self) -> None:
        """See Node."""
        self._ended_all = True
        self.seal()
        self._slots.seal()
        for sandbox in self._sandboxes.values():
            sandbox.ending = True
        try:
            await self._share.group.kill_all()
        except TimeoutError:
            log.error("processes of sandboxes do not die of SIGKILL: see the kernel's log")

    async def kill(self, sandbox_id: str) -> None:
        """See Node."""
        sandbox = self._get(sandbox_id)
        if sandbox.ending:
            self._tails.stop(sandbox)
        else:
            # Nothing that is under way lets it go on, or asks its agent for anything, from here on.
            sandbox.ending = True
            await self._tails.finish(sandbox)
        try:
            await self._launcher.end(sandbox)
        except TimeoutError:
            raise NodeError(f"processes of sandbox {sandbox_id} do not die of SIGKILL: see the kernel's log") from None
        if self._sandboxes.pop(sandbox_id, None) is None:
            raise UnknownSandbox(f"sandbox {sandbox_id} has ended meanwhile")
        self._tasks.spawn(self._launcher.tidy(sandbox), f"tidy {sandbox.container_id}")

    async def _discard(self, sandbox: Sandbox) -> None:
        """End a sandbox that nobody has; goes on when the caller is cancelled."""
        await asyncio.shield(self._tasks.spawn(self._launcher.discard(sandbox), f"discard {sandbox.container_id}"))

    async def _kill_if_there(self, sandbox_id: str) -> None:
        with contextlib.suppress(UnknownSandbox):
            await self.kill(sandbox_id)

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """See Node."""
        sandbox = self._get(sandbox_id)
        before, sandbox.policy = sandbox.policy, policy
        try:
            # First: no rules may be in force that the next server does not know.
            sandbox.record().write(sandbox.directory)
            await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, policy)
        except (OSError, NodeError) as error:
            sandbox.policy = before
            with contextlib.suppress(OSError):
                sandbox.record().write(sandbox.directory)
            message = f"the rules of sandbox {sandbox_id} stay as they were"
            raise (
                unwritable(message, error) if isinstance(error, OSError) else NodeError(f"{message}: {error}")
            ) from error

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        """See Node."""
        sandbox = self._get(sandbox_id)
        try:
            return await asyncio.to_thread(measure, sandbox, time.time())
        except OSError as error:
            raise NodeError(f"sandbox {sandbox_id} cannot be measured: {error}") from error
