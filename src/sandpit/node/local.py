"""This machine as a node: the life of its sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sandpit.node import images
from sandpit.node.admission import Admission
from sandpit.node.agent import Agent, Identity
from sandpit.node.config import NodeConfig
from sandpit.node.contract import (
    NetworkPolicy,
    NodeError,
    RunningSandbox,
    SandboxGone,
    SandboxMetric,
    SandboxSpec,
    TemplateImage,
    UnknownSandbox,
)
from sandpit.node.dns import DnsRelay
from sandpit.node.firewall import ALL, Firewall, domains
from sandpit.node.launcher import Launcher, Sandbox, Source
from sandpit.node.meter import Meter
from sandpit.node.pool import Pool
from sandpit.node.records import Record, read_all
from sandpit.node.runtime.base import Runtime, RuntimeFailed
from sandpit.node.slots import Slots
from sandpit.node.tasks import Tasks
from sandpit.node.templates import Templates

log = logging.getLogger(__name__)


class LocalNode:
    """Implements sandpit.node.contract.Node."""

    def __init__(self, config: NodeConfig, runtimes: Mapping[str, Runtime], closure: Path) -> None:
        """`closure` is the guest closure's directory. Nothing is touched before `start`."""
        self._config = config
        self._runtimes = runtimes
        self._firewall = Firewall(config)
        self._slots = Slots(config, self._firewall)
        self._launcher = Launcher(config, runtimes, self._slots, self._firewall)
        self._templates = Templates(config, self._launcher, closure)
        self._admission = Admission(config)
        self._dns = DnsRelay(self._may_resolve, self._resolved)
        self._meter = Meter()
        self._tasks = Tasks()
        self._sandboxes: dict[str, Sandbox] = {}
        self._pools: dict[str, Pool] = {}
        self._callbacks: list[SandboxGone] = []
        self._stopping = False

    def on_gone(self, callback: SandboxGone) -> None:
        """See Node."""
        self._callbacks.append(callback)

    def templates(self) -> Sequence[TemplateImage]:
        """See Node."""
        return [image.summary() for image in images.load_all(self._config)]

    async def start(self) -> Sequence[RunningSandbox]:
        """See Node."""
        for directory in (self._config.sandboxes_dir, self._config.snapshots_dir, self._config.roots_dir):
            directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        await self._firewall.install(await self._dns.start())
        alive, dead = self._survey()
        await self._slots.start(record.slot for _, record in alive)
        for directory, record in dead:
            runtime = record.runtime if record else ""
            await self._launcher.clean(directory.name, directory, None, runtime)
        for directory, record in alive:
            await self._adopt(directory, record)
        for image in images.load_all(self._config):
            self._pool(image.build_id)
        return [RunningSandbox(sandbox_id, sandbox.address) for sandbox_id, sandbox in self._sandboxes.items()]

    def _survey(self) -> tuple[list[tuple[Path, Record]], list[tuple[Path, Record | None]]]:
        """Sort what an earlier process left into sandboxes that go on and remains."""
        alive: list[tuple[Path, Record]] = []
        dead: list[tuple[Path, Record | None]] = []
        for directory, record in read_all(self._config.sandboxes_dir):
            process = record.process() if record else None
            if record is not None and process is not None and process.alive() and record.sandbox_id is not None:
                alive.append((directory, record))
            else:
                dead.append((directory, record))
        return alive, dead

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
        )
        await self._firewall.set_policy(slot.link, slot.outer, sandbox.policy)
        self._keep(sandbox)

    async def stop(self, *, kill_sandboxes: bool) -> None:
        """See Node."""
        self._stopping = True
        for pool in self._pools.values():
            await pool.close()
        if kill_sandboxes:
            await asyncio.gather(*(self.kill(sandbox_id) for sandbox_id in list(self._sandboxes)))
        watchers = [task for task in asyncio.all_tasks() if task.get_name().startswith(("watch ", "pool of "))]
        for task in watchers:
            task.cancel()
        await self._tasks.drain()
        for sandbox in self._sandboxes.values():
            await sandbox.agent.close()
        await self._dns.stop()
        await self._slots.stop(keep_used=not kill_sandboxes)
        if not self._sandboxes:
            await self._firewall.remove()

    async def create(self, spec: SandboxSpec) -> RunningSandbox:
        """See Node."""
        images.load(self._config, spec.build_id)
        pooled = self._pool(spec.build_id).take()
        sandbox = pooled or await self._start(spec.build_id)
        try:
            await self._claim(sandbox, spec)
        except BaseException:
            self._tasks.spawn(self._finish(sandbox), f"discard {sandbox.container_id}")
            raise
        return RunningSandbox(spec.sandbox_id, sandbox.address, started_warm=pooled is not None)

    async def _claim(self, sandbox: Sandbox, spec: SandboxSpec) -> None:
        """Make a sandbox that belongs to nobody the one that was asked for."""
        image = sandbox.image
        if spec.network != sandbox.policy:
            await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, spec.network)
            sandbox.policy = spec.network
        env = {**self._config.trust.env, **image.env, **spec.env}
        identity = Identity(spec.sandbox_id, spec.template_id, spec.access_token, env, image.user, image.workdir)
        sandbox.sandbox_id = spec.sandbox_id
        self._launcher.wake(sandbox)
        sandbox.record().write(sandbox.directory)
        await sandbox.agent.claim(identity)
        self._keep(sandbox)

    def _keep(self, sandbox: Sandbox) -> None:
        """A sandbox that has an owner: found by id, watched."""
        assert sandbox.sandbox_id is not None
        self._sandboxes[sandbox.sandbox_id] = sandbox
        self._tasks.spawn(self._watch(sandbox), f"watch {sandbox.sandbox_id}")

    async def _watch(self, sandbox: Sandbox) -> None:
        """Tell when a sandbox ends on its own."""
        await sandbox.process.wait()
        if sandbox.ending or sandbox.sandbox_id is None:
            return
        sandbox.ending = True
        reason = await asyncio.to_thread(_why, sandbox)
        self._sandboxes.pop(sandbox.sandbox_id, None)
        log.warning("sandbox %s ended on its own: %s", sandbox.sandbox_id, reason)
        for callback in self._callbacks:
            await callback(sandbox.sandbox_id, reason)
        await self._finish(sandbox)

    async def _start(self, build_id: str) -> Sandbox:
        """Start a sandbox that belongs to nobody yet; waits its turn. Raises: CapacityExhausted, NodeError."""
        source = await self._templates.source(build_id)
        async with self._admission.turn(source.image):
            try:
                return await self._launcher.launch(source)
            except RuntimeFailed as error:
                if source.snapshot is None:
                    raise
                return await self._boot_instead(source, error)

    async def _boot_instead(self, source: Source, error: RuntimeFailed) -> Sandbox:
        """A snapshot that does not restore costs time, not the sandbox."""
        log.warning("the snapshot of %s does not restore, booting cold: %s", source.image.names, error)
        return await self._boot(replace(source, snapshot=None))

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
            pool = Pool(build_id, self._config.pool_size, self._start, self._finish, self._pool_has_room)
            self._pools[build_id] = pool
            if not self._stopping:
                pool.run(self._tasks)
        return self._pools[build_id]

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
        del self._sandboxes[sandbox_id]
        await self._launcher.end(sandbox)
        self._tasks.spawn(self._launcher.tidy(sandbox), f"tidy {sandbox.container_id}")

    async def _finish(self, sandbox: Sandbox) -> None:
        """End a sandbox and everything it held."""
        await self._launcher.end(sandbox)
        await self._launcher.tidy(sandbox)

    async def update_network(self, sandbox_id: str, policy: NetworkPolicy) -> None:
        """See Node."""
        sandbox = self._get(sandbox_id)
        await self._firewall.set_policy(sandbox.slot.link, sandbox.slot.outer, policy)
        sandbox.policy = policy
        sandbox.record().write(sandbox.directory)

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
        """Whether a sandbox may know a name: all may, unless only listed destinations are allowed."""
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
        if sandbox.cgroup.usage().out_of_memory_kills:
            return f"out of memory (limit {sandbox.image.memory_mb} MiB)"
    return "its first process ended"
