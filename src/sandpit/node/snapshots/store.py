"""Snapshots of sandboxes on disk: each one a directory that is there whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import xxhash

from sandpit.contract.errors import NodeError, SnapshotDamaged, UnknownSnapshot
from sandpit.contract.node import SnapshotInfo
from sandpit.lib.private import write_private

log = logging.getLogger(__name__)

DISK = "disk"
"""Name of the file with the file system, in a snapshot without memory."""
_MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_NEW = ".new"
_GONE = ".gone"
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)
_SECTOR = 512
"""The unit of st_blocks (inode(7))."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot is and needs. `files` maps names to sizes in bytes and digests (XXH3, 128 bits, hex)."""

    snapshot_id: str
    build_id: str
    kind: Literal["memory", "filesystem"]
    runtime: str
    release: str
    """Of the runtime (`Runtime.release`): a memory snapshot restores with the same one only."""
    processor: str
    """Digest of the processor's features: processes may use all that they found."""
    closure: str
    """Name of the guest closure that the processes run from."""
    responsive: bool = True
    """Whether the agent answered; it does not in what is restored from this, if not."""
    secret: str = field(default="", repr=False)
    """What the agent in its memory knows the node by; empty in a snapshot from before there were secrets."""
    started_with: bool = False
    """Whether `release` is known to be the one that the sandbox was started with; older servers wrote down their own."""
    root: str = ""
    """With memory: name of the root file system's file that it goes on with; empty in a snapshot from before it was written down."""
    stored: int = 0
    """Bytes on disk: less than the sizes when files have holes."""
    files: dict[str, tuple[int, str]] = field(default_factory=dict)

    def info(self) -> SnapshotInfo:
        """What the control plane needs to know."""
        return SnapshotInfo(self.snapshot_id, self.build_id, self.kind == "memory", self.stored, self.responsive)


class SnapshotStore:
    """The directory of all snapshots. Blocking: call the long ones (`commit`, `verify`) in a thread."""

    def __init__(self, directory: Path) -> None:
        """Nothing is touched before `prepare`."""
        self._directory = directory
        self._publishing = threading.Lock()
        self._begun: dict[Path, bool] = {}
        """Snapshots that are being written, and whether they have been published."""

    def prepare(self) -> None:
        """Make the directory, and remove what an earlier process did not finish writing or removing. Raises: OSError."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for remains in self._directory.glob(f"*{_NEW}"):
            # A command that an earlier process started may be writing still: the name is free at once, the rest can wait.
            remains.rename(remains.with_suffix(f".{secrets.token_hex(4)}{_GONE}"))
        for remains in self._directory.glob(f"*{_GONE}"):
            shutil.rmtree(remains, ignore_errors=True)

    def path(self, snapshot_id: str) -> Path:
        """Where a snapshot's files are. Raises: UnknownSnapshot for what is no name."""
        if not _NAME.fullmatch(snapshot_id):
            raise UnknownSnapshot(f"{snapshot_id!r} is no name of a snapshot")
        return self._directory / snapshot_id

    def begin(self, snapshot_id: str) -> Path:
        """An empty directory to write a new snapshot into. Raises: UnknownSnapshot, NodeError (it is being taken), OSError."""
        staging = self.path(snapshot_id).with_suffix(_NEW)
        try:
            staging.mkdir(mode=0o700)
        except FileExistsError:
            raise NodeError(f"snapshot {snapshot_id} is being taken already") from None
        self._begun[staging] = False
        return staging

    def abandon(self, staging: Path) -> None:
        """Remove what was begun, published or not: a `commit` that is still running in another thread publishes nothing any more."""
        with self._publishing:
            published = self._begun.pop(staging, False)
        remains = self.hide(staging.stem) if published else staging
        if remains is not None:
            shutil.rmtree(remains, ignore_errors=True)

    def commit(self, staging: Path, manifest: Manifest) -> Manifest:
        """Publish what was begun: durable, then visible. One of the same name is replaced. Raises: OSError, NodeError."""
        paths = sorted(staging.iterdir())
        with ThreadPoolExecutor(2) as pool:  # the disk works while we compute
            synced = [pool.submit(_sync, path) for path in paths]
            files = {path.name: (path.stat().st_size, _digest(path)) for path in paths}
            for result in synced:
                result.result()
        complete = replace(manifest, files=files, stored=sum(path.stat().st_blocks for path in paths) * _SECTOR)
        with self._publishing:
            if staging not in self._begun:
                raise NodeError(f"snapshot {manifest.snapshot_id} was given up while it was written")
            before = self._publish(staging, complete)
            self._begun[staging] = True
        if before is not None:
            shutil.rmtree(before, ignore_errors=True)
        return complete

    def settle(self, staging: Path) -> None:
        """What was published stays: nobody abandons it any more."""
        self._begun.pop(staging, None)

    def _publish(self, staging: Path, complete: Manifest) -> Path | None:
        """Returns what is left to delete of one with the same name."""
        document = staging / _MANIFEST
        write_private(document, json.dumps(asdict(complete)))
        for path in (document, staging):
            _sync(path)
        before = self.hide(complete.snapshot_id)
        staging.rename(self.path(complete.snapshot_id))
        _sync(self._directory)
        return before

    def read(self, snapshot_id: str) -> Manifest:
        """Raises: UnknownSnapshot, SnapshotDamaged."""
        try:
            fields = json.loads((self.path(snapshot_id) / _MANIFEST).read_text())
            files = {name: (int(size), str(digest)) for name, (size, digest) in fields["files"].items()}
            return Manifest(**{**fields, "files": files})
        except FileNotFoundError:
            raise UnknownSnapshot(f"snapshot {snapshot_id} is not on this node") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotDamaged(f"the description of snapshot {snapshot_id} is damaged ({error!r})") from error

    def verify(self, manifest: Manifest) -> None:
        """Compare every file with the digest that was taken when it was written. Raises: SnapshotDamaged, OSError."""
        directory = self.path(manifest.snapshot_id)
        for name, (size, digest) in manifest.files.items():
            path = directory / name
            if not path.is_file() or path.stat().st_size != size or _digest(path) != digest:
                raise SnapshotDamaged(
                    f"snapshot {manifest.snapshot_id} is damaged: {name} is not what was written. Its state cannot be restored."
                )

    def hide(self, snapshot_id: str) -> Path | None:
        """Take a snapshot away under its name, which is free at once; returns what is left to delete. Raises: UnknownSnapshot, OSError."""
        hidden = self._directory / f"{snapshot_id}.{secrets.token_hex(4)}{_GONE}"
        try:
            return self.path(snapshot_id).rename(hidden)
        except FileNotFoundError:
            return None

    def all(self) -> Iterator[Manifest]:
        """Every snapshot whose description can be read."""
        for path in sorted(self._directory.glob(f"*/{_MANIFEST}")):
            if path.parent.suffix:
                continue
            try:
                yield self.read(path.parent.name)
            except SnapshotDamaged as error:
                log.error("%s", error)


def _digest(path: Path) -> str:
    """XXH3 of every block that is not all zeros, each with its place: holes cost nothing, wherever the file system puts them.

    It finds damage ten times faster than SHA-256; nobody but the operator can write here, so it need not stop forgers.
    """
    digest = xxhash.xxh3_128()
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        for start, end in _data(file.fileno()):
            for offset in range(start - start % _BLOCK, end, _BLOCK):
                file.seek(offset)
                size = file.readinto(block) or 0
                content = memoryview(block)[:size]
                if content != memoryview(_ZEROS)[:size]:
                    digest.update(offset.to_bytes(8))
                    digest.update(content)
    return digest.hexdigest()


def _data(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as ranges of whole blocks that do not overlap (lseek(2), SEEK_DATA)."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        end += -end % _BLOCK
        yield start, end


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
