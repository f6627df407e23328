"""This machine as a node: the life of its sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sandpit.node import images
from sandpit.node.admission import Admission
from sandpit.node.agent import Agent, AgentUnavailable, Identity
from sandpit.node.building import MakeBuilder, Parts
from sandpit.node.closures import Closures
from sandpit.node.config import NodeConfig
from sandpit.node.contract import (
    BuildFiles,
    BuildReport,
    BuildSpec,
    GuestEvents,
    NetworkPolicy,
    NodeError,
    RunningSandbox,
    SandboxGone,
    SandboxMetric,
    SandboxSpec,
    SnapshotInfo,
    TemplateImage,
    UnknownSandbox,
)
from sandpit.node.demand import Demand
from sandpit.node.dns import DnsRelay
from sandpit.node.firewall import ALL, Firewall, domains
from sandpit.node.launcher import Launcher, Sandbox, Source
from sandpit.node.meter import Meter
from sandpit.node.pool import Pool
from sandpit.node.records import Record, read_all
from sandpit.node.runtime.base import Runtime, RuntimeFailed
from sandpit.node.slots import Slots
from sandpit.node.snapshotter import Snapshotter
from sandpit.node.tails import Tails
from sandpit.node.tasks import Tasks
from sandpit.node.templates import Templates

log = logging.getLogger(__name__)
_POOL = "the pool"
"""The tenant that sandboxes are started for ahead of demand."""


class LocalNode:
    """Implements sandpit.node.contract.Node."""

    def __init__(
        self, config: NodeConfig, runtimes: Mapping[str, Runtime], closure: Path, make_builder: MakeBuilder
    ) -> None:
        """`closure` is the guest closure's directory. Nothing is touched before `start`."""
        self._config = config
        self._runtimes = runtimes
        self._firewall = Firewall(config)
        self._slots = Slots(config, self._firewall)
        self._launcher = Launcher(config, runtimes, self._slots, self._firewall)
        self._closures = Closures(config.closures_dir, config.closure_mounts_dir)
        self._closure = closure.name
        self._templates = Templates(config, self._launcher, config.closure_mounts_dir / closure.name)
        self._snapshotter = Snapshotter(config, self._launcher, self._closures, closure.name)
        self._admission = Admission(config)
        parts = Parts(config, self._launcher, self._templates, self._admission, self._slots, self._firewall)
        self._builder = make_builder(parts)
        self._dns = DnsRelay(self._may_resolve, self._resolved)
        self._meter = Meter()
        self._tasks = Tasks()
        """Work that must come to its end: cleaning up."""
        self._standing = Tasks()
        """Work that goes on until the node stops: watching, refilling pools."""
        self._tails = Tails(self._standing)
        self._sandboxes: dict[str, Sandbox] = {}
        self._pools: dict[str, Pool] = {}
        self._callbacks: list[SandboxGone] = []
        self._stopping = False

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
        if (pool := self._pools.pop(build_id, None)) is not None:
            await pool.close()
        await asyncio.to_thread(self._builder.remove, build_id)
        await self.collect_garbage()

    async def collect_garbage(self) -> None:
        """See Node."""
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
        for directory in (self._config.sandboxes_dir, self._config.snapshots_dir, self._config.roots_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self._snapshotter.prepare()
        self._builder.prepare()
        await self._firewall.install(await self._dns.start())
        alive, dead = self._survey()
        await self._slots.start(record.slot for _, record in alive)
        for directory, record in dead:
            await self._launcher.sweep(directory, record.runtime if record else "")
        for directory, record in alive:
            await self._adopt(directory, record)
        # An earlier process may have frozen some, and not lived to end or thaw them.
        await asyncio.gather(*(self._snapshotter.go_on(sandbox) for sandbox in self._sandboxes.values()))
        for image in images.load_all(self._config):
            self._pool(image.build_id)
        return [RunningSandbox(sandbox_id, sandbox.address) for sandbox_id, sandbox in self._sandboxes.items()]

    def _survey(self) -> tuple[list[tuple[Path, Record]], list[tuple[Path, Record | None]]]:
        """Sort what an earlier process left into sandboxes that go on and remains."""
        alive: list[tuple[Path, Record]] = []
        dead: list[tuple[Path, Record | None]] = []
        for directory, record in read_all(self._config.sandboxes_dir):
            process = record.process() if record else None
            going_on = record is not None and process is not None and process.alive() and record.sandbox_id is not None
            if record is not None and going_on and self._known(record.build_id):
                alive.append((directory, record))
            else:
                dead.append((directory, record))
        return alive, dead

    def _known(self, build_id: str) -> bool:
        try:
            images.load(self._config, build_id)
        except NodeError as error:
            log.error("a sandbox of an earlier process cannot go on: %s", error)
            return False
        return True

    async def _adopt(self, directory: Path, record: Record) -> None:
        """Take a sandbox over from an earlier process."""
        slot = self._slots.get(record.slot)
        process = record.process()
        assert process is not None and record.sandbox_id is not None  # noqa: PT018 (sorted by _survey)
        image = images.load(self._config, record.build_id)
        sandbox = Sandbox(
            record.container_id,
            image,
            record.runtime,
            directory,
            slot,
            self._launcher.cgroup(record.container_id),
            process,
            Agent(str(slot.outer)),
            record.sandbox_id,
            record.policy(),
            record.closure,
        )
        await self._firewall.set_policy(slot.link, slot.outer, sandbox.policy)
        self._keep(sandbox)

    async def stop(self, *, kill_sandboxes: bool) -> None:
        """See Node."""
        self._stopping = True
        for pool in self._pools.values():
            await pool.close()
        if kill_sandboxes:
            await asyncio.gather(*(self._kill_if_there(sandbox_id) for sandbox_id in list(self._sandboxes)))
        await self._standing.close()
        await self._tasks.drain()
        for sandbox in self._sandboxes.values():
            await sandbox.agent.close()
        await self._dns.stop()
        await self._slots.stop(keep_used=not kill_sandboxes)
        self._closures.clear()
        if not self._sandboxes:
            await self._firewall.remove()
            self._launcher.remove_groups()

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        """See Node."""
        try:
            return await self._create(spec)
        except OSError as error:
            raise NodeError(f"this node cannot start sandboxes now: {error}") from error

    async def _create(self, spec: SandboxSpec) -> RunningSandbox:
        if spec.snapshot_id is not None:
            return await self._hand_out(await self._start_from(spec.snapshot_id, spec), spec, warm=False)
        images.load(self._config, spec.build_id)
        while (pooled := self._pool(spec.build_id).take()) is not None:
            try:
                return await self._hand_out(pooled, spec, warm=True)
            except (AgentUnavailable, OSError) as error:
                if isinstance(error, OSError) and pooled.process.alive():
                    raise
                log.warning("a waiting sandbox of %s does not answer, taking another: %s", spec.build_id, error)
        return await self._hand_out(await self._start(spec.build_id, spec.tenant), spec, warm=False)

    async def _hand_out(self, sandbox: Sandbox, spec: SandboxSpec, *, warm: bool) -> RunningSandbox:
        """Claim a sandbox; one that cannot be claimed is ended. Raises: AgentUnavailable, NodeError."""
        try:
            await self._claim(sandbox, spec)
        except BaseException:
            self._tasks.spawn(self._finish(sandbox), f"discard {sandbox.container_id}")
            raise
        return RunningSandbox(spec.sandbox_id, sandbox.address, started_warm=warm)

    async def _claim(self, sandbox: Sandbox, spec: SandboxSpec) -> None:
        """Make a sandbox that belongs to nobody the one that was asked for."""
        image = sandbox.image
        if spec.network != sandbox.policy:
            await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, spec.network)
            sandbox.policy = spec.network
        env = {**self._config.trust.env, **image.env, **spec.env}
        identity = Identity(
            spec.sandbox_id, spec.template_id, spec.access_token, env, image.user, image.workdir, spec.resumed
        )
        sandbox.sandbox_id = spec.sandbox_id
        self._launcher.wake(sandbox)
        sandbox.record().write(sandbox.directory)
        await self._launcher.runtime_of(image).name_host(sandbox.process, spec.sandbox_id)
        await sandbox.agent.claim(identity)
        self._keep(sandbox)

    def _keep(self, sandbox: Sandbox) -> None:
        """A sandbox that has an owner: found by id, watched."""
        assert sandbox.sandbox_id is not None
        self._sandboxes[sandbox.sandbox_id] = sandbox
        self._standing.spawn(self._watch(sandbox), f"watch {sandbox.sandbox_id}")

    async def _watch(self, sandbox: Sandbox) -> None:
        """Tell when a sandbox ends on its own."""
        await sandbox.process.wait()
        if sandbox.ending or sandbox.sandbox_id is None:
            return
        sandbox.ending = True
        self._tails.stop(sandbox)
        reason = await asyncio.to_thread(_why, sandbox)
        self._sandboxes.pop(sandbox.sandbox_id, None)
        log.warning("sandbox %s ended on its own: %s", sandbox.sandbox_id, reason)
        for callback in self._callbacks:
            await callback(sandbox.sandbox_id, reason)
        await self._finish(sandbox)

    async def _start(self, build_id: str, tenant: str) -> Sandbox:
        """Start a sandbox that belongs to nobody yet; waits its turn. Raises: CapacityExhausted, NodeError."""
        source = await self._templates.source(build_id)
        async with self._admission.turn(source.image, tenant):
            if source.snapshot is None:
                return await self._boot(source)
            try:
                return await self._launcher.launch(source)
            except (RuntimeFailed, AgentUnavailable) as error:
                # A snapshot that does not restore costs time, not the sandbox.
                log.warning("the snapshot of %s does not restore, booting cold: %s", source.image.names, error)
                self._templates.distrust(source)
                return await self._boot(replace(source, snapshot=None))

    async def _start_from(self, snapshot_id: str, spec: SandboxSpec) -> Sandbox:
        """Start a sandbox from a snapshot of one; it belongs to nobody yet. Raises: as `create`."""
        manifest = await asyncio.to_thread(self._snapshotter.store.read, snapshot_id)
        image = images.load(self._config, manifest.build_id)
        async with self._admission.turn(image, spec.tenant):
            if manifest.kind == "memory" and spec.memory:
                if (why := self._snapshotter.restorable(manifest)) is None:
                    return await self._snapshotter.restore(manifest)
                log.warning("snapshot %s boots from its file system, its processes are lost: %s", snapshot_id, why)
            async with self._snapshotter.disk_source(manifest) as source:
                return await self._boot(source)

    async def announce_snapshot(self, sandbox_id: str) -> None:
        """See Node."""
        await self._snapshotter.announce(self._get(sandbox_id))

    async def snapshot(self, sandbox_id: str, snapshot_id: str, *, memory: bool, end: bool) -> SnapshotInfo:
        """See Node."""
        sandbox = self._get(sandbox_id)
        async with self._tails.away(sandbox):
            info = await self._snapshotter.take(sandbox, snapshot_id, memory=memory, end=end)
        if end:
            self._sandboxes.pop(sandbox_id, None)
            self._tasks.spawn(self._finish(sandbox), f"tidy {sandbox.container_id}")
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

    async def _start_ahead(self, build_id: str) -> Sandbox:
        """Start a sandbox that has time until it is wanted. Raises: as `_start`."""
        sandbox = await self._start(build_id, _POOL)
        try:
            await self._templates.rehearse(sandbox)
        except BaseException:
            await asyncio.shield(self._finish(sandbox))
            raise
        return sandbox

    async def _boot(self, source: Source) -> Sandbox:
        sandbox = await self._launcher.launch(source)
        try:
            await self._templates.start_up(sandbox)
        except BaseException:
            await asyncio.shield(self._finish(sandbox))
            raise
        return sandbox

    def _pool(self, build_id: str) -> Pool:
        if build_id not in self._pools:
            # A team's templates have sandboxes waiting for as long as they are asked for.
            least = 0 if images.load(self._config, build_id).owner else self._config.pool_size
            demand = Demand(least, self._config.pool_max)
            pool = Pool(build_id, demand, self._start_ahead, self._discard, self._pool_has_room)
            self._pools[build_id] = pool
            if not self._stopping:
                pool.run(self._standing)
                self._tasks.spawn(self._close_older_pools(build_id), f"pools before {build_id}")
        return self._pools[build_id]

    async def _close_older_pools(self, build_id: str) -> None:
        """A template's new build takes its pool's place; sandboxes of earlier builds are started when they are asked for."""
        template_id = images.load(self._config, build_id).template_id
        for other, pool in list(self._pools.items()):
            image = images.load(self._config, other)
            if other != build_id and image.template_id == template_id and image.retired:
                await pool.close()

    def _pool_has_room(self, build_id: str) -> bool:
        """Whether one more ready sandbox fits the memory budget of all pools."""
        held = sum(len(pool) * self._templates.resident_mb(build) for build, pool in self._pools.items())
        return held + self._templates.resident_mb(build_id) <= self._config.pool_memory_mb

    def releases(self) -> dict[str, str]:
        """The runtimes of this node and the digests of their binaries."""
        return {name: runtime.release() for name, runtime in self._runtimes.items()}

    def pool_sizes(self) -> dict[str, int]:
        """Ready sandboxes by build id."""
        return {build_id: len(pool) for build_id, pool in self._pools.items()}

    def _get(self, sandbox_id: str) -> Sandbox:
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise UnknownSandbox(f"sandbox {sandbox_id} is not on this node") from None

    async def kill(self, sandbox_id: str) -> None:
        """See Node."""
        sandbox = self._get(sandbox_id)
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
        await asyncio.shield(self._tasks.spawn(self._finish(sandbox), f"discard {sandbox.container_id}"))

    async def _kill_if_there(self, sandbox_id: str) -> None:
        with contextlib.suppress(UnknownSandbox):
            await self.kill(sandbox_id)

    async def _finish(self, sandbox: Sandbox) -> None:
        """End a sandbox and everything it held."""
        await self._launcher.end(sandbox)
        await self._launcher.tidy(sandbox)

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """See Node."""
        sandbox = self._get(sandbox_id)
        before, sandbox.policy = sandbox.policy, policy
        try:
            sandbox.record().write(
                sandbox.directory
            )  # first: no rules may be in force that the next server does not know
            await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, policy)
        except (OSError, NodeError) as error:
            sandbox.policy = before
            with contextlib.suppress(OSError):
                sandbox.record().write(sandbox.directory)
            raise NodeError(f"the rules of sandbox {sandbox_id} stay as they were: {error}") from error

    async def metrics(self, sandbox_id: str) -> SandboxMetric:
        """See Node."""
        sandbox = self._get(sandbox_id)
        try:
            return await asyncio.to_thread(self._meter.read, sandbox, time.time())
        except OSError as error:
            raise NodeError(f"sandbox {sandbox_id} cannot be measured: {error}") from error

    def _owner(self, address: str) -> Sandbox | None:
        slot = self._slots.by_address(address)
        return next((one for one in self._sandboxes.values() if one.slot is slot), None) if slot else None

    def _may_resolve(self, address: str, name: str) -> bool:
        """Whether a sandbox may know a name: all may, unless only listed destinations are allowed. Nobody else may ask."""
        if self._slots.by_address(address) is None:
            return False
        sandbox = self._owner(address)
        if sandbox is None or ALL not in sandbox.policy.deny_out:
            return True
        return any(_matches(name, pattern) for pattern in domains(sandbox.policy.allow_out))

    async def _resolved(self, address: str, name: str, found: list[str]) -> None:
        sandbox = self._owner(address)
        if sandbox is None or not found or not domains(sandbox.policy.allow_out):
            return
        if any(_matches(name, pattern) for pattern in domains(sandbox.policy.allow_out)):
            await self._firewall.learn(sandbox.slot.link, found)


def _matches(name: str, pattern: str) -> bool:
    """Domain rules of current-protocol 3.9: `*.x` does not match `x` itself, `*` matches every name."""
    if pattern == "*":
        return True
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


def _why(sandbox: Sandbox) -> str:
    with contextlib.suppress(OSError):
        usage = sandbox.cgroup.usage()
        if usage.out_of_memory_kills:
            return f"out of memory (limit {sandbox.image.memory_mb} MiB)"
        if usage.refused_forks:
            return f"too many processes (limit {sandbox.image.pids})"
    return "its first process ended"
