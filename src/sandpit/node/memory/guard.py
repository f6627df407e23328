"""When a sandbox needs more memory than it has, a process in it dies, as on Linux: the largest, by SIGKILL.

The kernel's own means would not do. To it a gVisor sandbox is the sentry and its memory file: it could end all or nothing, and freeing
takes the sentry's work, hence memory. So the limit that the kernel enforces is higher by a reserve, and this module acts between the
two: it is told when a sandbox's memory is worth a look (`memorygroup`), has the runtime name the processes and kill the largest, and
waits for its memory to come back. Nothing in the sandbox need cooperate, so nothing in it can prevent that. crun sandboxes are treated
alike.

What killing does not help (files in memory, a kernel that does not answer, a storm of processes), or what is faster than this, ends the
sandbox: here, or by the kernel at the hard limit. docs/memory.md has figures and reasons.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from sandpit.lib.tasks import Tasks
from sandpit.node.host.cgroups import Cgroup
from sandpit.node.memory.group import Alarm, Held, MemoryGroup
from sandpit.node.runtime.base import GuestProcess, Limits, Runtime, RuntimeFailed

log = logging.getLogger(__name__)

RESERVE_MB = 512
"""Between a sandbox's memory and its hard limit, for each of its processors: half a second of writing to new memory (1 GB/s each,
measured). On a machine with eight times more work than processors it took a quarter of a second at times until the largest was dead."""
_GROWTH = 1e9
"""Bytes a second by which one processor can make a sandbox grow."""
_LOOK_SECONDS = (0.01, 1.0)
"""The shortest and the longest time between two looks at a sandbox."""
_KERNEL_PART = 8
"""From this part of the memory on (an eighth), the kernel is asked to reclaim its own before anybody is killed for it."""
_TICK_SECONDS = 0.01
_PATIENCE_SECONDS = 0.5
"""How long nothing may come back of the memory of those that were killed, before the next one is."""
_EPISODE_SECONDS = 20.0
"""How long a sandbox may be above its memory without interruption."""
_TRIES = 3
"""How often the runtime may fail to tell the processes, five seconds each."""
_NEVER = -1000
"""The adjustment of a process that must not be killed (proc_pid_oom_score_adj(5)). It takes rights on the host."""
_OWN_NAME = "ld.so"
_OWN_BYTES = 128 << 20
"""The guest's own programs, as the code interpreter's service, count as so much smaller. Who takes that name dies a bit later."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one sandbox, in bytes."""

    memory: int
    """What it may need, the runtime's own included."""
    hard: int
    """What the kernel lets it have."""
    growth: float
    """How fast it can grow, a second."""


def bounds(limits: Limits, own_memory_mb: int) -> Bounds:
    """What follows from a template's limits and the runtime's needs."""
    memory = (limits.memory_mb + own_memory_mb) << 20
    processors = max(1, math.ceil(limits.cpus))
    return Bounds(memory, memory + (RESERVE_MB * processors << 20), _GROWTH * processors)


@dataclass(slots=True)
class Guarded:
    """A sandbox that is watched."""

    container_id: str
    group: Cgroup
    runtime: Runtime
    bounds: Bounds
    busy: asyncio.Lock
    """Held while a snapshot is taken: it may be frozen."""
    killed: Callable[[GuestProcess], None]
    """Told of every process that was killed. It must not wait."""
    doomed: Callable[[], None]
    """Called when only the end of the sandbox helps. It must not wait."""
    memory: MemoryGroup = field(init=False)

    def __post_init__(self) -> None:
        """Find its group."""
        self.memory = MemoryGroup(self.group)


class MemoryGuard:
    """Watches the memory of all sandboxes of a node: a task and a descriptor each, at rest without any work."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._tasks = Tasks()
        self._watches: dict[str, asyncio.Task[None]] = {}

    def watch(self, guarded: Guarded) -> None:
        """Set the limits of a sandbox, and look after its memory until `forget`. Raises: OSError: then it must not run."""
        guarded.memory.set_limits(guarded.bounds.memory, guarded.bounds.hard)
        alarm = guarded.memory.alarm(guarded.bounds.memory)
        watch = self._tasks.spawn(_watched(guarded, alarm), f"memory of {guarded.container_id}")
        watch.add_done_callback(lambda _: alarm.close())  # it may be cancelled before its first step
        self._watches[guarded.container_id] = watch

    def forget(self, container_id: str) -> None:
        """Look after a sandbox no longer; one that is not watched is no error."""
        if (watch := self._watches.pop(container_id, None)) is not None:
            watch.cancel()

    async def close(self) -> None:
        """Look after none any more. The hard limits stay in force."""
        self._watches.clear()
        await self._tasks.close()


async def _watched(guarded: Guarded, alarm: Alarm) -> None:
    """Look when it is time, until the sandbox is gone."""
    rang = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(alarm.fileno(), rang.set)
    try:
        while await _within(guarded, guarded.memory.look()):
            # What comes from here on is heard, so nothing is missed while we sleep.
            rang.clear()
            alarm.clear()
            held = guarded.memory.look()
            await asyncio.sleep(_pause(guarded.bounds, held.needed))
            if held.usage < guarded.bounds.memory:
                await rang.wait()
    except OSError as error:
        log.debug("memory of %s: its group is gone: %s", guarded.container_id, error)
    finally:
        loop.remove_reader(alarm.fileno())


def _pause(limits: Bounds, needed: int) -> float:
    """Seconds in which a sandbox cannot grow by an eighth of its reserve beyond its memory: until then there is no need to look, however
    often the alarm rings."""
    room = limits.memory + (limits.hard - limits.memory) / 8 - needed
    shortest, longest = _LOOK_SECONDS
    return min(longest, max(shortest, room / limits.growth))


async def _within(guarded: Guarded, held: Held) -> bool:
    """Bring a sandbox back to what it may need; False when only its end did. Raises: OSError when it is gone."""
    if held.needed <= guarded.bounds.memory or _frozen(guarded, held) or await _reclaimed(guarded, held):
        return True
    try:
        async with asyncio.timeout(_EPISODE_SECONDS):
            if await _relieved(guarded):
                return True
    except TimeoutError:
        pass
    if guarded.busy.locked():  # frozen, it can neither tell nor die; the host's kernel has the last word
        return True
    guarded.doomed()
    return False


def _frozen(guarded: Guarded, held: Held) -> bool:
    """Whether a snapshot is being taken, which takes some of the sentry's memory, and there is time until that is over."""
    return guarded.busy.locked() and held.needed < (guarded.bounds.memory + guarded.bounds.hard) // 2


async def _reclaimed(guarded: Guarded, held: Held) -> bool:
    """Whether the kernel had memory of its own to give back (entries of directories, inodes), and that was enough. Raises: OSError."""
    memory = guarded.bounds.memory
    if held.kernel < memory // _KERNEL_PART or held.needed - held.kernel > memory:
        return False
    await asyncio.to_thread(guarded.memory.reclaim)
    return guarded.memory.look().needed <= memory


async def _relieved(guarded: Guarded) -> bool:
    """Kill the largest processes until the sandbox needs no more than it may; False when there are none whose end would help."""
    killed: set[int] = set()
    failures = 0
    while (excess := guarded.memory.look().needed - guarded.bounds.memory) > 0:
        try:
            found = await guarded.runtime.processes(guarded.container_id, guarded.group)
            victims = chosen(found, killed, excess, guarded.bounds.memory)
            if victims is None:
                return False
            for victim in victims:
                await guarded.runtime.kill_process(guarded.container_id, victim)
                killed.add(victim.pid)
                guarded.killed(victim)
        except RuntimeFailed as error:
            failures += 1
            log.warning("memory of %s: %s", guarded.container_id, error)
            if failures == _TRIES:
                return False
            continue
        await _settled(guarded, guarded.bounds.memory + excess)
    return True


def chosen(
    found: Sequence[GuestProcess], killed: Collection[int], excess: int, memory: int
) -> list[GuestProcess] | None:
    """Whom to kill so that `excess` bytes are free: the largest, and only as many as it takes. None if that cannot help.

    `killed` are those that may still be dying, which will free something; nobody need be killed then. `memory` is all there is:
    adjustments are thousandths of that.
    """
    candidates = [one for one in found if one.pid not in killed and one.adjustment > _NEVER]
    freed = sum(one.resident for one in found if one.pid in killed)
    if freed + sum(one.resident for one in candidates) < excess:
        return None
    victims: list[GuestProcess] = []
    for one in sorted(candidates, key=lambda one: _score(one, memory), reverse=True):
        if freed >= excess:
            break
        victims.append(one)
        freed += one.resident
    return victims


def _score(process: GuestProcess, memory: int) -> int:
    """As Linux counts (proc_pid_oom_score(5)), but for the guest's own programs."""
    own = _OWN_BYTES if process.name == _OWN_NAME else 0
    return process.resident + process.adjustment * memory // 1000 - own


async def _settled(guarded: Guarded, needed: int) -> None:
    """Wait while what was killed gives its memory back, unless others take an eighth of the reserve beyond `needed` bytes meanwhile."""
    alarming = needed + (guarded.bounds.hard - guarded.bounds.memory) // 8
    least, fallen = needed, time.monotonic()
    while guarded.bounds.memory < (now := guarded.memory.look().needed) < alarming:
        if now < least:
            least, fallen = now, time.monotonic()
        elif time.monotonic() - fallen > _PATIENCE_SECONDS:
            return
        await asyncio.sleep(_TICK_SECONDS)
