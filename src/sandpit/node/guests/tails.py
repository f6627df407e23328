"""Following what happens in sandboxes: the journals of their agents, fetched as they grow.

A request waits in each agent that is followed, so that an idle sandbox costs a connection and nothing else. None is open while a
checkpoint is taken (`quiet`), nor to a sandbox that nobody has. The agent keeps what was fetched as long as it has room: a server that
dies before it has written something down gets it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sandpit.contract.node import GuestEvents
from sandpit.lib.tasks import Tasks
from sandpit.node.guests import log as guestlog
from sandpit.node.guests.agent import AgentUnavailable
from sandpit.node.guests.messages import parts
from sandpit.node.guests.pace import Pace
from sandpit.node.sandboxes.launcher import Sandbox

log = logging.getLogger(__name__)

_FIRST_SECONDS = 0.5
"""A sandbox that was just handed out has better things to do; its agent keeps what happens."""
_LAST_SECONDS = 0.3
"""What an agent has to tell must not delay the end of its sandbox for longer."""
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
_EVENTS_PER_SECOND = 100.0
_BURST_EVENTS = 2000.0
"""More than this from one sandbox is slowed down, and dropped in the sandbox: it must not fill the others' store."""
_LEAST_EVENTS = 5
"""What an answer counts as at least: each is a connection."""
_BYTES_OF_AN_EVENT = 4096
_PARTS_OF_AN_EVENT = 50
"""An answer that has more bytes or JSON values counts as more events: reading it takes the server's time."""


class Tail:
    """One sandbox that is followed."""

    def __init__(self, sandbox: Sandbox, callbacks: list[GuestEvents], after: int) -> None:
        """Follow from the position `after` on."""
        self._sandbox = sandbox
        self._callbacks = callbacks
        self.position = after
        self._pace = Pace(_EVENTS_PER_SECOND, _BURST_EVENTS)

    async def run(self) -> None:
        """Fetch until cancelled."""
        await asyncio.sleep(_FIRST_SECONDS)
        pause = _RETRY_SECONDS
        while True:
            try:
                await self._pace.spend(await self._fetch(wait=True))
                pause = _RETRY_SECONDS
            except AgentUnavailable as error:
                log.debug("no events of sandbox %s: %s", self._sandbox.sandbox_id, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    async def drain(self) -> None:
        """Fetch what is there, until cancelled."""
        with contextlib.suppress(AgentUnavailable):
            while await self._fetch(wait=False):
                pass

    async def _fetch(self, *, wait: bool) -> float:
        """Deliver the next events; returns how many, or more if they are larger than events are. Raises: AgentUnavailable."""
        body = await self._sandbox.agent.journal(self.position, wait=wait)
        events = guestlog.parse(body, self.position, time.time())
        if not events:
            if wait:  # it was asked to wait until there are some
                raise AgentUnavailable("its journal makes no sense")
            return 0
        self.position = events[-1].position
        assert self._sandbox.sandbox_id is not None
        for callback in self._callbacks:
            callback(self._sandbox.sandbox_id, events)
        return max(_LEAST_EVENTS, len(events), len(body) / _BYTES_OF_AN_EVENT, parts(body) / _PARTS_OF_AN_EVENT)


class Tails:
    """All sandboxes of a node that are followed."""

    def __init__(self, tasks: Tasks) -> None:
        """`tasks` is where following runs; it belongs to the caller."""
        self._tasks = tasks
        self._tails: dict[str, tuple[Tail, asyncio.Task[None]]] = {}
        self.callbacks: list[GuestEvents] = []

    def follow(self, sandbox: Sandbox, after: int) -> None:
        """Tell what happens from a position on; a sandbox that is followed already is left as it is."""
        if sandbox.container_id not in self._tails:
            tail = Tail(sandbox, self.callbacks, after)
            self._tails[sandbox.container_id] = tail, self._tasks.spawn(tail.run(), f"events of {sandbox.sandbox_id}")

    def stop(self, sandbox: Sandbox) -> Tail | None:
        """Follow no longer."""
        tail, task = self._tails.pop(sandbox.container_id, (None, None))
        if task is not None:
            task.cancel()
        return tail

    async def finish(self, sandbox: Sandbox) -> Tail | None:
        """Fetch what is left, if that is soon, and follow no longer. Whatever the sandbox does, it takes `_LAST_SECONDS` at most."""
        tail = self.stop(sandbox)
        if tail is not None:
            draining = self._tasks.spawn(tail.drain(), f"last events of {sandbox.sandbox_id}")
            await asyncio.wait({draining}, timeout=_LAST_SECONDS)
            draining.cancel()
        return tail

    @asynccontextmanager
    async def away(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Leave the sandbox alone for a while; go on if it does."""
        tail = await self.finish(sandbox)
        try:
            yield
        finally:
            if tail is not None and not sandbox.ending:
                self.follow(sandbox, tail.position)
