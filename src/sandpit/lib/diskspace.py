"""Room on the disk: what is about to be written is claimed first, and nothing is begun that would reach into the operator's reserve.

A full file system harms everybody: records and the database cannot be written, runtimes fail in the middle. So sandboxes, snapshots,
builds and uploads ask here before they begin; what has no known size is watched while it is written.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_MIB = 1 << 20
_PART = 20
_MOST_RESERVE = 2 << 30
_STEP = 16 << 20
"""By how much a claim grows that turns out to be too small, in bytes."""
_LOOK_SECONDS = 0.25


class NoRoom(OSError):
    """The disk would get fuller than its reserve allows. `errno` is ENOSPC, as if it were full."""

    def __init__(self, message: str) -> None:
        """The message names the sizes, and may be shown to a tenant."""
        super().__init__(errno.ENOSPC, message)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class Room:
    """A file system, in bytes."""

    total: int
    free: int
    """For unprivileged users: what the file system keeps for root stays out of it."""
    promised: int
    """To work under way that has not written it yet."""
    reserve: int

    @property
    def left(self) -> int:
        """What may be claimed; negative when the reserve is touched."""
        return self.free - self.promised - self.reserve


class Claim:
    """Bytes that somebody is about to write."""

    def __init__(self, space: DiskSpace, directory: Path, what: str) -> None:
        """`what` needs them, in messages."""
        self._space = space
        self._directory = directory
        self._what = what
        self._size = self._written = 0

    @property
    def outstanding(self) -> int:
        """Bytes that are not written yet."""
        return max(0, self._size - self._written)

    def grow(self, size: int) -> None:
        """Claim `size` bytes in all. Raises: NoRoom; the claim stays as it was."""
        if size > self._size:
            self._space.check(self._directory, size - self._size, self._what)
            self._size = size

    def write(self, size: int) -> None:
        """So many bytes are written next: the claim grows in steps when they are more than was thought. Raises: NoRoom."""
        if self._written + size > self._size:
            self.grow(self._written + size + _STEP)
        self._written += size


_claims: defaultdict[int, set[Claim]] = defaultdict(set)
"""Of this process, by file system (st_dev): whoever writes, they share it."""


class DiskSpace:
    """The reserve, and what was promised of the rest."""

    def __init__(self, reserve_mb: int | None = None) -> None:
        """`reserve_mb` is in MiB; None: a twentieth of each file system, at most 2 GiB."""
        self._reserve_mb = reserve_mb

    def look(self, directory: Path) -> Room:
        """The file system of a directory. Raises: OSError."""
        found = os.statvfs(directory)
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        reserve = min(total // _PART, _MOST_RESERVE) if self._reserve_mb is None else self._reserve_mb * _MIB
        promised = sum(claim.outstanding for claim in _claims[directory.stat().st_dev])
        return Room(total, free, promised, reserve)

    def check(self, directory: Path, size: int, what: str, *, begun: bool = False) -> None:
        """Raises: NoRoom when there are not `size` bytes for `what`, which counts as promised itself if it has `begun`; OSError."""
        room = self.look(directory)
        if size > room.left + (room.promised if begun else 0):
            raise NoRoom(
                f"No space left on device: the server's disk has {room.free // _MIB} MiB free, {room.promised // _MIB} MiB of them "
                f"promised and {room.reserve // _MIB} MiB kept in reserve, and {what} needs {-(-size // _MIB) or 'more'} MiB: "
                "delete snapshots or templates, or try again later"
            )

    @contextmanager
    def claimed(self, directory: Path, size: int, what: str) -> Iterator[Claim]:
        """Hold room for something that is written below `directory`. Raises: NoRoom, OSError."""
        claim, device = Claim(self, directory, what), directory.stat().st_dev
        claim.grow(size)
        _claims[device].add(claim)
        try:
            yield claim
        finally:
            _claims[device].discard(claim)

    async def guard(self, directories: Iterable[Path], work: Coroutine[Any, Any, T], what: str) -> T:
        """Run something that writes nobody knows how much below these directories; it is cancelled when it reaches the reserve.

        Raises: NoRoom, OSError.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                for directory in directories:
                    self.check(directory, 0, what, begun=True)
                await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
