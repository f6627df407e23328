"""The edge's directory of running sandboxes, in memory (see `sandpit.contract.directory`)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sandpit.contract.directory import Target

_REMEMBERED = 10_000
"""Sandboxes that ended on their own, the latest: some 200 bytes each."""


class LiveDirectory:
    """Running sandboxes by id. Implements `sandpit.contract.directory.Directory`."""

    def __init__(self) -> None:
        self._targets: dict[str, Target] = {}
        self._callbacks: list[Callable[[str], None]] = []
        self._reasons: OrderedDict[str, str] = OrderedDict()
        """Why sandboxes ended on their own."""
        self.waker: Callable[[str], Awaitable[None]] | None = None
        """Waits for a sandbox's transition, or resumes it if it is asleep. Raises: WakeRefusedError."""
        self.toucher: Callable[[str], None] | None = None
        """Hears that something flows to or from a sandbox."""

    def find(self, sandbox_id: str) -> Target | None:
        return self._targets.get(sandbox_id)

    def targets(self) -> Iterable[Target]:
        return tuple(self._targets.values())

    def touch(self, sandbox_id: str) -> None:
        if self.toucher is not None:
            self.toucher(sandbox_id)

    def on_gone(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def why_gone(self, sandbox_id: str) -> str:
        return self._reasons.get(sandbox_id, "")

    def add(self, target: Target) -> None:
        """A sandbox runs."""
        self._targets[target.sandbox_id] = target

    async def wake(self, sandbox_id: str) -> Target | None:
        if self.waker is not None:
            await self.waker(sandbox_id)
        return self._targets.get(sandbox_id)

    def hold(self, sandbox_id: str) -> None:
        """A sandbox is in transition: its streams end, new requests wait."""
        if (target := self._targets.get(sandbox_id)) is not None:
            self._targets[sandbox_id] = replace(target, state="held")
            self._tell(sandbox_id)

    def sleep(self, sandbox_id: str) -> None:
        """A sandbox that was held is paused now, and a request may resume it."""
        if (target := self._targets.get(sandbox_id)) is not None:
            self._targets[sandbox_id] = replace(target, state="asleep")

    def release(self, sandbox_id: str) -> None:
        """A sandbox runs again as before."""
        if (target := self._targets.get(sandbox_id)) is not None:
            self._targets[sandbox_id] = replace(target, state="running")

    def remove(self, sandbox_id: str, why: str = "") -> None:
        """A sandbox stops running: whoever waits learns it now; `why`, if it ended on its own."""
        if why:
            self._reasons[sandbox_id] = why
            while len(self._reasons) > _REMEMBERED:
                self._reasons.popitem(last=False)
        if self._targets.pop(sandbox_id, None) is not None:
            self._tell(sandbox_id)

    def _tell(self, sandbox_id: str) -> None:
        for callback in self._callbacks:
            callback(sandbox_id)
