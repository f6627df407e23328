"""The layer store: directories in overlayfs upper format, stacked by mounting into root file systems.

    <data_dir>/layers/<key>/fs          the tree
    <data_dir>/layers/<key>/layer.json  {"key", "parent", "step", "bytes", "seconds"}
    <data_dir>/layers/.tmp/             layers in the making; their makers hold a lock on them

A layer appears by one rename, when it is complete and on disk: a killed build leaves only a temporary directory, which
the next build sweeps away. Keys are content hashes, so a layer never changes and is shared by all templates.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.lib.partials import remove_tree
from sandpit.templates.layers.devices import drop_devices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_UNSETTLED = "unsettled"
IMAGE_STEP = "image layer"
TEMPLATE_STEP = "template step"
"""Layers of these two are thrown away when nothing needs them (sandpit.templates.garbage)."""


class LayerError(Exception):
    """A layer could not be made or mounted. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A finished layer. `parent` is the key of the layer it was made on; None for a whole root file system."""

    key: str
    path: Path
    parent: str | None
    step: str
    bytes: int
    seconds: float

    @property
    def empty(self) -> bool:
        """Whether nothing was written: such a layer need not be mounted."""
        return not any(self.fs.iterdir())

    @property
    def fs(self) -> Path:
        """The tree itself, to be used as a `lowerdir`."""
        return self.path / "fs"


def layer_key(parent: str | None, step: str, *inputs: str | bytes) -> str:
    """The key of a layer: 32 hex digits of SHA-256 over the parent's key, the step and all that it reads."""
    digest = hashlib.sha256()
    for part in (parent or "", step, *inputs):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


class LayerStore:
    """The layers below one data directory. Safe to use from several processes."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir.absolute() / "layers"
        self._tmp = self.root / ".tmp"
        self._locks = self.root / ".locks"
        for folder in (self.root, self._tmp, self._locks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, key: str) -> Layer | None:
        """The finished layer with this key, else None."""
        path = self.root / _checked(key)
        try:
            about = json.loads((path / "layer.json").read_text())
        except FileNotFoundError:
            return None
        return Layer(key, path, about["parent"], about["step"], about["bytes"], about["seconds"])

    def chain(self, key: str) -> list[Layer]:
        """The layer and all below it, lowest first. Raises: LayerError if one is missing."""
        chain: list[Layer] = []
        wanted: str | None = key
        while wanted is not None:
            layer = self.find(wanted)
            if layer is None:
                raise LayerError(f"layer {wanted} is missing below {self.root}; build the image again")
            chain.append(layer)
            wanted = layer.parent
        return chain[::-1]

    def ensure(self, key: str, *, parent: str | None, step: str, produce: Callable[[Path], None]) -> Layer:
        """The layer with this key; if missing, `produce` fills an empty tree with it. One maker per key at a time."""
        with locked(self._locks / _checked(key)):
            if layer := self.find(key):
                return layer
            with self.building(key, parent=parent, step=step) as fs:
                produce(fs)
            layer = self.find(key)
        if layer is None:
            raise LayerError(f"layer {key} vanished while it was made; build the image again")
        return layer

    @contextmanager
    def building(self, key: str, *, parent: str | None, step: str, durable: bool = True) -> Iterator[Path]:
        """Give an empty directory to fill; it becomes the layer when the block ends well, and is removed when not.

        One that is not `durable` is lost at the next start unless it is settled before: writing to disk takes long when others write much.

        If another build finished the same layer meanwhile, that one stays. The directory is on the store's file
        system, so it may serve as `upperdir`.
        """
        started = time.monotonic()
        work, lock = self._claim(key)
        try:
            fs = work / "fs"
            fs.mkdir()
            fs.chmod(0o755)
            yield fs
            if devices := drop_devices(fs):
                raise LayerError(f"layers have no devices, and this one has {', '.join(devices[:3])}")
            layer = Layer(key, self.root / key, parent, step, tree_bytes(fs), round(time.monotonic() - started, 3))
            (work / "layer.json").write_text(json.dumps({k: v for k, v in asdict(layer).items() if k != "path"}))
            if durable:
                sync_file_system(work)
            else:
                (work / _UNSETTLED).touch()
            with suppress(OSError):  # ENOTEMPTY: the other build's layer is as good
                work.rename(layer.path)
                if durable:
                    sync_file_system(self.root)
        finally:
            remove_tree(work)
            os.close(lock)

    def settle(self, keys: Iterable[str]) -> None:
        """Have these layers on disk. Raises: LayerError."""
        marks = [mark for key in keys if (mark := self.root / _checked(key) / _UNSETTLED).exists()]
        if marks:
            sync_file_system(self.root)
        for mark in marks:
            mark.unlink(missing_ok=True)

    def drop_devices(self) -> None:
        """Remove those that layers of earlier releases have, all below their `dev`."""
        for devices in self.root.glob("*/fs/dev"):
            drop_devices(devices.parent, below=devices)

    def drop_unsettled(self) -> None:
        """Remove layers that may not be whole on disk: their maker ended before it could say so."""
        for mark in self.root.glob(f"*/{_UNSETTLED}"):
            if (hidden := self.hide(mark.parent.name)) is not None:
                remove_tree(hidden)

    def hide(self, key: str) -> Path | None:
        """Take a layer away; returns what is left to remove, which the next sweep removes too. None when it is not there."""
        hidden = Path(tempfile.mkdtemp(prefix=f"{_checked(key)}.gone.", dir=self._tmp))
        try:
            return (self.root / key).rename(hidden / key).parent
        except FileNotFoundError:
            hidden.rmdir()
            return None

    def _claim(self, key: str) -> tuple[Path, int]:
        with locked(self._locks / "sweep"):  # guards the moment between making a temporary directory and locking it
            self._sweep()
            work = Path(tempfile.mkdtemp(prefix=f"{_checked(key)}.", dir=self._tmp))
            lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return work, lock

    def _sweep(self) -> None:
        for stale in self._tmp.iterdir():
            fd = os.open(stale, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # somebody is at work in it
            finally:
                os.close(fd)
            remove_tree(stale)


def tree_bytes(path: Path) -> int:
    """Disk space of a tree in bytes, hard links counted once."""
    seen: set[int] = set()
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            status = os.lstat(f"{folder}/{name}")
            if status.st_nlink == 1 or status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total


def _checked(key: str) -> str:
    if not key.isalnum():
        raise LayerError(f"{key!r} is no layer key: letters and digits only")
    return key


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if missing; it ends with the process at the latest."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """Write everything on the file system of `path` to disk. Raises: LayerError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.syncfs(fd) != 0:
            raise LayerError(f"cannot write {path} to disk: {os.strerror(ctypes.get_errno())}; is the disk full?")
    finally:
        os.close(fd)
