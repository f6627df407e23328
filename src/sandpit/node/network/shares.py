"""Work that many ask for and few may have at a time, shared fairly: who asks for much waits behind himself, not before others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class _Peer:
    running: dict[asyncio.Task[None], None] = field(default_factory=dict)
    """In the order in which they began."""
    waiting: deque[Work] = field(default_factory=deque)


class Shares:
    """Runs work of peers: `each` at a time for one of them, `total` for all; as many as `waiting` wait for each.

    When all places are taken, whoever has fewest gets the place of the oldest work of whoever has most, which is cancelled: slow
    work of one peer cannot keep others out, however many of its kind there are.
    """

    def __init__(self, *, total: int, each: int, waiting: int) -> None:
        """Start empty."""
        self._total, self._each, self._most_waiting = total, each, waiting
        self._peers: dict[str, _Peer] = {}
        self._turn: deque[str] = deque()
        """Peers that wait for a place."""
        self._running = 0
        self._ending: set[asyncio.Task[None]] = set()

    def offer(self, peer: str, work: Work) -> bool:
        """Run `work` as soon as there is a place; false when too much waits already. Work that is dropped is never called."""
        one = self._peers.setdefault(peer, _Peer())
        if len(one.waiting) >= self._most_waiting:
            return False
        one.waiting.append(work)
        if not self._start(peer, one) and peer not in self._turn:
            self._turn.append(peer)
        return True

    def forget(self, peer: str) -> None:
        """Cancel and drop all work of a peer."""
        one = self._peers.pop(peer, None)
        if one is not None:
            one.waiting.clear()
            for task in tuple(one.running):
                self._cancel(one, task)
            self._go_on()

    def count(self, peer: str) -> int:
        """How much of a peer runs or waits."""
        one = self._peers.get(peer)
        return len(one.running) + len(one.waiting) if one else 0

    async def close(self) -> None:
        """Cancel everything and wait for it to end."""
        for peer in tuple(self._peers):
            self.forget(peer)
        while self._ending:
            await asyncio.wait(self._ending)

    def _start(self, peer: str, one: _Peer) -> bool:
        """Begin a peer's next work if it may; whether it began."""
        if not one.waiting or len(one.running) >= self._each:
            return False
        if self._running >= self._total and not self._make_room(one):
            return False
        task = asyncio.get_running_loop().create_task(one.waiting.popleft()(), name=f"for {peer}")
        one.running[task] = None
        self._running += 1
        task.add_done_callback(lambda task: self._done(peer, task))
        return True

    def _make_room(self, one: _Peer) -> bool:
        greediest = max(self._peers.values(), key=lambda other: len(other.running))
        if len(greediest.running) <= len(one.running) + 1:
            return False
        self._cancel(greediest, next(iter(greediest.running)))
        return True

    def _cancel(self, one: _Peer, task: asyncio.Task[None]) -> None:
        """Its place is free at once."""
        del one.running[task]
        self._running -= 1
        self._ending.add(task)
        task.cancel()

    def _done(self, peer: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # work reports its own failures
        if task in self._ending:
            self._ending.discard(task)
            return
        self._running -= 1
        one = self._peers.get(peer)
        if one is not None:
            one.running.pop(task, None)
            if not one.running and not one.waiting:
                del self._peers[peer]
        self._go_on()

    def _go_on(self) -> None:
        """Begin what waits, one of each peer in turn, while there are places."""
        for _ in range(len(self._turn)):
            if self._running >= self._total:
                return
            peer = self._turn.popleft()
            one = self._peers.get(peer)
            if one is not None and one.waiting:
                self._start(peer, one)
                if one.waiting:
                    self._turn.append(peer)
