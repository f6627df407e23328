"""Copies of runtime binaries: what a sandbox or a snapshot was started with is there for as long as it needs that."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from sandpit.lib.private import private

GOFER = ".gofer"
"""Ends the name of a release whose gofer opens all files. Without it the sentry does, as in all of Sandpit up to 0.1: what was taken or
started in one way goes on in that way alone."""
_NEW = ".new"


class Releases:
    """A directory of binaries, each under its SHA-256 digest. Blocking."""

    def __init__(self, directory: Path) -> None:
        """Nothing is touched before `keep`."""
        self.directory = directory
        self._known: dict[tuple[int, int, int, int], Path] = {}

    def keep(self, binary: Path) -> Path:
        """Copy a binary unless it is here; returns the copy, whose name is its digest. Raises: OSError.

        A copy and no link: whoever writes into the original changes no release. Tens of megabytes, once for each release.
        """
        with binary.open("rb") as file:
            status = os.fstat(file.fileno())
            key = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
            if (kept := self._known.get(key)) is None or not kept.is_file():
                kept = self.directory / hashlib.file_digest(file, "sha256").hexdigest()
                if not _whole(kept, status.st_size):
                    file.seek(0)
                    self._copy(file.fileno(), kept)
                self._known[key] = kept
        return kept

    def _copy(self, source: int, kept: Path) -> None:
        """Make a copy that is there whole or not at all, also after a power cut. Raises: OSError: it changed meanwhile, too."""
        private(self.directory)
        partial = kept.with_suffix(f".{secrets.token_hex(4)}{_NEW}")
        try:
            with os.fdopen(os.dup(source), "rb") as file, partial.open("xb+") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
                copy.seek(0)
                if hashlib.file_digest(copy, "sha256").hexdigest() != kept.name:
                    raise OSError(f"the binary {kept.name[:12]} is being replaced: try again")
            partial.chmod(0o755)  # the runtime starts itself again as nobody; the directory is closed
            partial.rename(kept)
        finally:
            partial.unlink(missing_ok=True)

    def find(self, release: str) -> Path | None:
        """The binary of a release, if it is kept."""
        kept = self.directory / release.removesuffix(GOFER)
        return kept if release and kept.is_file() else None

    def forget(self, needed: Collection[str]) -> None:
        """Remove all binaries but those of the releases that are needed. Raises: OSError."""
        names = {release.removesuffix(GOFER) for release in needed}
        for path in self.directory.glob("*"):
            digest = path.name.removesuffix(GOFER)
            if digest not in names:
                path.unlink()
            elif digest != path.name:
                path.rename(self.directory / digest)


def _whole(kept: Path, size: int) -> bool:
    return kept.is_file() and kept.stat().st_size == size
