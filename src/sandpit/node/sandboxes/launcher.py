"""Starting and ending containers: every resource a sandbox holds is taken and given back here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.contract.node import NetworkPolicy, RunningSandbox
from sandpit.node.config import NodeConfig
from sandpit.node.guests.agent import Agent
from sandpit.node.guests.control_secret import ControlSecret
from sandpit.node.guests.pace import Pace
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.host.idling import IDLE_SLACK, RUNNING_SLACK
from sandpit.node.host.processes import ProcessId
from sandpit.node.memory.guard import Guarded, MemoryGuard, bounds
from sandpit.node.network.firewall import Firewall
from sandpit.node.network.slots import Slot, Slots
from sandpit.node.runtime.base import GuestProcess, Limits, Plan, Runtime
from sandpit.node.runtime.boundedlog import BoundedLog
from sandpit.node.sandboxes.records import Record
from sandpit.node.snapshots.images import Image

log = logging.getLogger(__name__)

_AGENT_START_SECONDS = 60.0
_BUSY_SECONDS = 30.0
_REPORTS_PER_SECOND, _BURST_REPORTS = 0.2, 50.0
"""Lines in a sandbox's log, and calls to its agent, about processes that were killed for want of memory."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a sandbox is started from."""

    image: Image
    layers: tuple[Path, ...]
    root: Path
    closure: Path
    snapshot: Path | None
    """A checkpoint directory; None: cold boot."""
    runtime: Runtime | None = None
    """The runtime, and release of it, that the snapshot is bound to; None takes the template's."""
    disk: Path | None = None
    """At a cold boot: what an earlier life has written."""
    secret: str = field(default="", repr=False)
    """What the agents in the snapshot know the node by."""


@dataclass(slots=True)
class Sandbox:
    """A running container and everything it holds."""

    container_id: str
    image: Image
    runtime: str
    directory: Path
    slot: Slot
    cgroup: Cgroup
    process: ProcessId
    agent: Agent
    sandbox_id: str | None = None
    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    closure: str = ""
    """Name of the guest closure that it runs from."""
    release: str = ""
    """The runtime's release that it was started with: the one that its snapshots restore with."""
    ending: bool = False
    """Set when its end is wanted, so that its death is no news."""
    responsive: bool = True
    """Whether its agent answered when it was last asked to prepare for a snapshot."""
    idle: bool = True
    """Whether its timers may be late: nobody has asked it for anything lately, and it does no work of its own."""
    touched: float = 0.0
    """When something last flowed between it and a client, or it worked (monotonic seconds)."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a snapshot is taken: what the sandbox holds is given back after that has cleaned up, which its end interrupts."""
    memory_kills: int = 0
    """How many of its processes this node has killed for want of memory."""
    memory_reports: Pace = field(default_factory=lambda: Pace(_REPORTS_PER_SECOND, _BURST_REPORTS))
    """How many of these kills are told of."""
    doom: str = ""
    """Why this node has ended it: only its end helped."""
    measured: tuple[float, float] | None = None
    """When it was last measured (unix seconds), and the CPU time that it had used by then (seconds)."""

    @property
    def address(self) -> str:
        """Where the edge finds it."""
        return str(self.slot.outer)

    @property
    def out_of_memory(self) -> str:
        """The reason of an end for want of memory."""
        return f"out of memory (limit {self.image.memory_mb} MiB)"

    def running(self, *, warm: bool = False) -> RunningSandbox:
        """What the control plane needs to know of one that has an owner."""
        assert self.sandbox_id is not None
        return RunningSandbox(self.sandbox_id, self.address, warm, self.agent.secret.relay)

    def record(self) -> Record:
        """What to keep on disk."""
        return Record(
            self.container_id,
            self.image.build_id,
            self.runtime,
            self.slot.number,
            self.process.pid,
            self.process.start_ticks,
            self.sandbox_id,
            asdict(self.policy),
            self.closure,
            self.agent.secret.record(),
            self.release,
        )

    def why_it_ended(self) -> str:
        """The likeliest reason, as far as the kernel's counters tell."""
        if self.doom:
            return self.doom
        with contextlib.suppress(OSError):
            usage = self.cgroup.usage()
            if usage.out_of_memory_kills:
                return self.out_of_memory
            if usage.refused_forks:
                return f"too many processes (limit {self.image.pids})"
        return "its first process ended"


class Launcher:
    """Starts containers, ends them, cleans up after them."""

    def __init__(
        self, config: NodeConfig, runtimes: Mapping[str, Runtime], slots: Slots, firewall: Firewall, cpus: float
    ) -> None:
        """Use the given parts; they belong to the caller. No sandbox gets more than `cpus` processors."""
        self._cpus = cpus
        self._config = config
        self._runtimes = runtimes
        self._slots = slots
        self._firewall = firewall
        self._guard = MemoryGuard()
        self.on_memory_kill: Callable[[Sandbox, GuestProcess], None] = lambda _sandbox, _process: None
        """Told of every process that was killed because its sandbox was out of memory. It must not wait."""

    def runtime_of(self, image: Image) -> Runtime:
        """The runtime for a template. Raises: NodeError when this node does not have it."""
        return self.runtime_named(self._config.runtime or image.runtime)

    def runtimes(self) -> Iterable[Runtime]:
        """All that this node has."""
        return self._runtimes.values()

    def runtime_named(self, name: str) -> Runtime:
        """A runtime by its name. Raises: NodeError when this node does not have it."""
        try:
            return self._runtimes[name]
        except KeyError:
            raise NodeError(
                f"runtime {name!r} is not on this node (it has: {', '.join(self._runtimes) or 'none'}); see `sandpit doctor`"
            ) from None

    def runtime_of_sandbox(self, sandbox: Sandbox) -> Runtime:
        """The release that a sandbox was started with, for all that only that can do to it. Raises: NodeError when it is gone."""
        return self.runtime_of_release(sandbox.runtime, sandbox.release, f"sandbox {sandbox.sandbox_id}")

    def runtime_of_release(self, name: str, release: str, what: str) -> Runtime:
        """A release of a runtime, which `what` needs. Raises: NodeError when it is gone."""
        if (runtime := self.runtime_named(name).of_release(release)) is None:
            raise NodeError(f"{what} needs the {name} release {release[:12]}, which is gone")
        return runtime

    def cgroup(self, container_id: str) -> Cgroup:
        """The groups of a container."""
        return Cgroup(f"/{self._config.name}/{container_id}")

    async def launch(
        self, source: Source, *, answers: bool = True, begun: Callable[[], None] = lambda: None
    ) -> Sandbox:
        """Start a container whose agent answers, unless it is known not to; it belongs to nobody yet.

        `begun` is called when the container runs: from then on the guest decides how long it takes.
        Raises: NodeError; nothing is left behind then.
        """
        with contextlib.closing(BoundedLog()) as printed:
            return await self._launch(source, printed, answers, begun)

    async def _launch(self, source: Source, printed: BoundedLog, answers: bool, begun: Callable[[], None]) -> Sandbox:
        runtime = source.runtime or self.runtime_of(source.image)
        container_id = f"c{secrets.token_hex(8)}"
        directory = self._config.sandboxes_dir / container_id
        slot = await self._slots.take()
        try:
            directory.mkdir(parents=True, mode=0o700)
            release = runtime.release()
            Record(container_id, source.image.build_id, runtime.name, slot.number, release=release).write(directory)
            secret = ControlSecret.new() if source.snapshot is None else ControlSecret(source.secret)
            plan = self._plan(source, container_id, directory, slot, printed, secret)
            process = await self._begin(runtime, plan, source.snapshot)
            begun()
            sandbox = Sandbox(
                container_id,
                source.image,
                runtime.name,
                directory,
                slot,
                Cgroup(plan.cgroup),
                process,
                Agent(str(slot.outer), secret),
                closure=source.closure.name,
                release=release,
            )
            self.guard(sandbox)
            if answers:
                await self._until_healthy(sandbox, printed)
            runtime.set_timer_slack(process, IDLE_SLACK)
            sandbox.record().write(directory)
        except BaseException:
            await asyncio.shield(self._abandon(container_id, directory, slot, runtime))
            raise
        return sandbox

    async def _begin(self, runtime: Runtime, plan: Plan, snapshot: Path | None) -> ProcessId:
        """Start the container's processes, and give its slot the usual rules meanwhile: the kernel takes its time for both."""
        begun, ruled = await asyncio.gather(
            runtime.boot(plan) if snapshot is None else runtime.restore(plan, snapshot),
            self._firewall.set_policy(plan.slot.link, plan.slot.outer, NetworkPolicy()),
            return_exceptions=True,  # whatever fails: nothing is undone before both have ended
        )
        for result in (begun, ruled):
            if isinstance(result, BaseException):
                raise result
        assert isinstance(begun, ProcessId)
        return begun

    async def _until_healthy(self, sandbox: Sandbox, printed: BoundedLog) -> None:
        """Wait for the agent, or for the container's death, whichever comes first. Raises: NodeError."""
        healthy = asyncio.ensure_future(sandbox.agent.wait_healthy(_AGENT_START_SECONDS))
        dead = asyncio.ensure_future(sandbox.process.wait())
        try:
            await asyncio.wait({healthy, dead}, return_when=asyncio.FIRST_COMPLETED)
            if not healthy.done():
                raise NodeError(
                    f"the sandbox ended while it started (template {', '.join(sandbox.image.names)}): {printed.last_words()}"
                )
            await healthy
        except BaseException:
            await sandbox.agent.close()
            raise
        finally:
            healthy.cancel()
            dead.cancel()
            await asyncio.gather(healthy, dead, return_exceptions=True)

    def guard(self, sandbox: Sandbox) -> None:
        """Look after a sandbox's memory until its end. Raises: OSError."""
        runtime = self.runtime_named(sandbox.runtime)

        def killed(process: GuestProcess) -> None:
            sandbox.memory_kills += 1
            self.on_memory_kill(sandbox, process)

        def doomed() -> None:
            """It dies like one that ends on its own, for a reason that is known."""
            sandbox.doom = sandbox.out_of_memory
            self._strike(sandbox)

        limits = bounds(self._limits(sandbox.image), runtime.own_memory_mb)
        self._guard.watch(Guarded(sandbox.container_id, sandbox.cgroup, runtime, limits, sandbox.busy, killed, doomed))

    async def close(self) -> None:
        """Look after no sandbox any more."""
        await self._guard.close()

    def _limits(self, image: Image) -> Limits:
        return Limits(min(image.cpu_count, self._cpus), image.memory_mb, image.disk_mb, image.pids)

    def _plan(
        self,
        source: Source,
        container_id: str,
        directory: Path,
        slot: Slot,
        printed: BoundedLog,
        secret: ControlSecret,
    ) -> Plan:
        image = source.image
        limits = self._limits(image)
        bundle = directory / "bundle"
        bundle.mkdir(mode=0o700)
        cgroup = self.cgroup(container_id).path
        layers, closure, handover = source.layers, source.closure, secret.handover()
        return Plan(
            container_id, bundle, layers, source.root, closure, slot, limits, cgroup, printed, source.disk, handover
        )

    async def _abandon(self, container_id: str, directory: Path, slot: Slot, runtime: Runtime) -> None:
        """Undo a start that failed."""
        try:
            await self.clean(container_id, directory, slot, runtime.name)
        except (OSError, TimeoutError, NodeError) as error:
            log.error("cleaning up after the failed start of %s: %s", container_id, error)

    def wake(self, sandbox: Sandbox) -> None:
        """Let a sandbox's timers be on time again."""
        sandbox.idle, sandbox.touched = False, time.monotonic()
        self.runtime_named(sandbox.runtime).set_timer_slack(sandbox.process, RUNNING_SLACK)

    def doze(self, sandbox: Sandbox) -> None:
        """Let the timers of a sandbox in which nothing happens be late."""
        sandbox.idle = True
        self.runtime_named(sandbox.runtime).set_timer_slack(sandbox.process, IDLE_SLACK)

    async def end(self, sandbox: Sandbox) -> None:
        """Kill a sandbox; returns when its processes are dead. What it held is still held: see `tidy`."""
        self.kill(sandbox)
        await sandbox.cgroup.kill_all()

    def kill(self, sandbox: Sandbox) -> None:
        """Have a sandbox's processes die, without waiting for it."""
        sandbox.ending = True
        self._guard.forget(sandbox.container_id)
        self._strike(sandbox)

    def _strike(self, sandbox: Sandbox) -> None:
        sandbox.cgroup.hurry()
        sandbox.process.kill()
        with contextlib.suppress(OSError):
            sandbox.cgroup.kill()

    async def tidy(self, sandbox: Sandbox) -> None:
        """Give everything back that a dead sandbox held."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BUSY_SECONDS), sandbox.busy:
                pass
        await sandbox.agent.close()
        await self.clean(sandbox.container_id, sandbox.directory, sandbox.slot, sandbox.runtime)

    async def discard(self, sandbox: Sandbox) -> None:
        """End a sandbox, and give back everything it held."""
        await self.end(sandbox)
        await self.tidy(sandbox)

    async def sweep(self, directory: Path, runtime: str) -> None:
        """Remove what an earlier process left of a container; what resists stays for the next start, and keeps nobody from this one."""
        try:
            await self.clean(directory.name, directory, None, runtime)
        except (OSError, TimeoutError, NodeError) as error:
            log.error("remains of %s cannot be removed, trying again at the next start: %s", directory, error)

    async def clean(self, container_id: str, directory: Path, slot: Slot | None, runtime: str) -> None:
        """Kill what is left of a container, and remove all traces. The record goes last: a crash in between is tidied at start."""
        cgroup = self.cgroup(container_id)
        self._guard.forget(container_id)
        await cgroup.kill_all()
        if runtime in self._runtimes:
            await self._runtimes[runtime].forget(directory / "bundle", container_id)
        await _removed(cgroup)
        if slot is not None:
            await self._slots.give_back(slot)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _removed(cgroup: Cgroup) -> None:
    """Remove a group; its last processes may still be on their way out of the kernel."""
    for _ in range(100):
        try:
            cgroup.remove()
        except OSError:
            await asyncio.sleep(0.02)
        else:
            return
    cgroup.remove()
