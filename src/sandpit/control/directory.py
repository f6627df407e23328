"""The edge's directory of running sandboxes, in memory (see `sandpit.edge.directory`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandpit.edge.directory import Target


class LiveDirectory:
    """Running sandboxes by id. Implements `sandpit.edge.directory.Directory`."""

    def __init__(self) -> None:
        self._targets: dict[str, Target] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def find(self, sandbox_id: str) -> Target | None:
        return self._targets.get(sandbox_id)

    def targets(self) -> Iterable[Target]:
        return tuple(self._targets.values())

    def on_gone(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    def add(self, target: Target) -> None:
        """A sandbox runs."""
        self._targets[target.sandbox_id] = target

    def remove(self, sandbox_id: str) -> None:
        """A sandbox stops running: whoever asked is told now."""
        if self._targets.pop(sandbox_id, None) is None:
            return
        for callback in self._callbacks:
            callback(sandbox_id)
