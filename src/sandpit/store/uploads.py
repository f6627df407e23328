"""Archives of files that template builds copy, as teams have uploaded them: `<directory>/<team>/<hash>`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from sandpit.lib.diskspace import Claim, DiskSpace
from sandpit.lib.ledger import Ledger, OverLimit

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_CHUNK = 1 << 20
_NEW = ".new"
AT_ONCE = 32
"""Archives that a team may be sending at the same time."""


class TooLarge(Exception):
    """The archive is larger than is allowed."""


class TooMany(Exception):
    """The team sends so much at once already that this would not fit into its share beside it."""


class Uploads:
    """The archives of all teams. A team sees only its own, whatever hash it asks for: hashes are the clients' and prove nothing."""

    def __init__(self, directory: Path, archive_bytes: int, team_bytes: int, space: DiskSpace) -> None:
        """Nothing is touched before the first upload. Beyond `team_bytes`, a team's oldest archives go."""
        self._space = space
        self._directory = directory
        self._coming = Ledger()
        """Bytes that are being received, by team, from before their first one."""
        self._under_way = Ledger()
        self._room = asyncio.Lock()
        self._archive_bytes = archive_bytes
        self._team_bytes = team_bytes

    def clear_unfinished(self) -> None:
        """Remove what an earlier process did not finish receiving."""
        for partial in self._directory.glob(f"*/*{_NEW}"):
            partial.unlink(missing_ok=True)

    def has(self, team: str, name: str) -> bool:
        """Whether the archive is there; then it is kept for longer, too."""
        path = self._path(team, name)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
            return True
        return False

    @asynccontextmanager
    async def receive(self, team: str, name: str, size: int | None = None) -> AsyncIterator[Receiver]:
        """Take an archive of `size` bytes, or of as many as are allowed; it is there when the block ends well.

        Its room in the team's share is reserved first; old archives go for it. Raises: TooLarge, TooMany, OSError.
        """
        path = self._path(team, name)
        limit = self._archive_bytes if size is None else size
        if limit > self._archive_bytes:
            raise TooLarge
        try:
            with (
                self._under_way.reserve(team, limit=AT_ONCE),
                self._coming.reserve(team, limit, limit=self._team_bytes),
            ):
                await self._make_room(path)
                async with self._receiving(path, limit, claimed=size or 0) as receiver:
                    yield receiver
        except OverLimit:
            raise TooMany from None

    @asynccontextmanager
    async def _receiving(self, path: Path, limit: int, *, claimed: int) -> AsyncIterator[Receiver]:
        """`claimed` bytes of the disk are held from the beginning, and more as they come."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_NEW}")
        try:
            with (
                self._space.claimed(path.parent, claimed, "this upload") as claim,
                partial.open("xb", buffering=0) as file,
            ):
                yield Receiver(file, limit, claim)
                await asyncio.to_thread(os.fsync, file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    async def read(self, team: str, name: str) -> AsyncIterator[bytes]:
        """The archive in pieces. Raises: KeyError when it is not there."""
        try:
            file = self._path(team, name).open("rb")
        except FileNotFoundError:
            raise KeyError(name) from None
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk

    def forget(self, team: str) -> None:
        """Remove all of a team's."""
        shutil.rmtree(self._path(team, "x").parent, ignore_errors=True)

    def _path(self, team: str, name: str) -> Path:
        if not (_NAME.fullmatch(team) and _NAME.fullmatch(name)):
            raise KeyError(name)
        return self._directory / team / name

    async def _make_room(self, newest: Path) -> None:
        """Have the team's archives, and all that it is sending now, fit its share: the oldest go, the one to be replaced first."""
        async with self._room:
            room = self._team_bytes - self._coming.held(newest.parent.name)
            await asyncio.to_thread(_drop_oldest, newest, room)


def _drop_oldest(replaced: Path, room: int) -> None:
    files: list[tuple[bool, float, int, Path]] = []
    for path in replaced.parent.glob("*"):
        if path.suffix != _NEW:
            status = path.stat()
            files.append((path != replaced, status.st_mtime, status.st_size, path))
    total = sum(size for _, _, size, _ in files)
    for is_other, _, size, path in sorted(files):
        if total > room:
            path.unlink(missing_ok=True)
        if total > room or not is_other:
            total -= size


class Receiver:
    """Writes one archive."""

    def __init__(self, file: IO[bytes], limit: int, claim: Claim) -> None:
        self._file = file
        self._left = limit
        self._claim = claim

    async def write(self, chunk: bytes) -> None:
        """Raises: TooLarge, OSError."""
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLarge
        self._claim.write(len(chunk))
        await asyncio.to_thread(self._file.write, chunk)
