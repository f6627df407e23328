"""Sandboxes in which nothing happens: their timers may be late, so that they cost next to nothing.

gVisor's sentry wakes all the time, also when nothing runs inside: 4-5 % of a core with the kernel's default timer slack of 50 us, 1.2 %
with 5 ms, 0.09 % with 100 ms (measured). So a sandbox is on time (5 ms) while bytes flow between it and a client, and while it works; some
seconds later its timers may be 100 ms late, until the next request, which has them on time before it is passed on, or until it is seen to
work, at the next look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandpit.node.sandboxes.launcher import Sandbox

RUNNING_SLACK = 0.005
IDLE_SLACK = 0.1
"""Seconds that timers may be late."""
CALM_SECONDS = 5.0
"""Without a request and without work of its own, before a sandbox counts as idle."""
_WORKING = 0.04
"""Processors that a sandbox uses beyond which it works; while its timers are on time, one that does nothing uses 0.012."""
_STIRRING = 0.008
"""The same while its timers are late: one that does nothing uses 0.001. Work whose pauses are stretched shows only by little."""


class Idling:
    """Decides which sandboxes are idle."""

    def __init__(self, wake: Callable[[Sandbox], None], doze: Callable[[Sandbox], None]) -> None:
        """What sets a sandbox's timers; they belong to the caller, and set `idle`."""
        self._wake = wake
        self._doze = doze

    def touch(self, sandbox: Sandbox) -> None:
        """Something flows between a sandbox and a client: it is on time when this returns."""
        sandbox.touched = time.monotonic()
        if sandbox.idle:
            self._wake(sandbox)

    async def look(self, sandboxes: Iterable[Sandbox], used: Mapping[str, float]) -> None:
        """Go through all; `used` is the processors that each has used since the last look, by container id.

        Setting timers takes some 0.2 ms for each sandbox: whatever else is to be done gets its turn in between.
        """
        for sandbox in sandboxes:
            before = sandbox.idle
            self._judge(sandbox, used.get(sandbox.container_id, 0.0))
            if sandbox.idle is not before:
                await asyncio.sleep(0)

    def _judge(self, sandbox: Sandbox, share: float) -> None:
        now = time.monotonic()
        if share > (_STIRRING if sandbox.idle else _WORKING):
            self.touch(sandbox)
        elif not sandbox.idle and now - sandbox.touched > CALM_SECONDS:
            self._doze(sandbox)
