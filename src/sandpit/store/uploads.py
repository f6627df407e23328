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

from sandpit.diskspace import Claim, DiskSpace

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_CHUNK = 1 << 20
_NEW = ".new"


class TooLarge(Exception):
    """The archive is larger than is allowed."""


class Uploads:
    """The archives of all teams. A team sees only its own, whatever hash it asks for: hashes are the clients' and prove nothing."""

    def __init__(self, directory: Path, archive_bytes: int, team_bytes: int, space: DiskSpace) -> None:
        """Nothing is touched before the first upload. Beyond `team_bytes`, a team's oldest archives go."""
        self._space = space
        self._directory = directory
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
    async def receive(self, team: str, name: str, size: int) -> AsyncIterator[Receiver]:
        """Take an archive of `size` bytes, or more; it is there when the block ends well. Raises: TooLarge, OSError."""
        if size > self._archive_bytes:
            raise TooLarge
        path = self._path(team, name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f"{name}.{secrets.token_hex(4)}{_NEW}")
        try:
            with (
                self._space.claimed(path.parent, size, "this upload") as claim,
                partial.open("xb", buffering=0) as file,
            ):
                yield Receiver(file, self._archive_bytes, claim)
                await asyncio.to_thread(os.fsync, file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        await asyncio.to_thread(self._make_room, path)

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

    def _make_room(self, newest: Path) -> None:
        files = sorted(newest.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._team_bytes or path == newest:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


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
