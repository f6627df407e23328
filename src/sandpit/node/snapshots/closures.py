"""Guest closures, each shown to sandboxes through one read-only mount."""

from __future__ import annotations

from pathlib import Path

from sandpit.contract.errors import NodeError
from sandpit.lib import mounts
from sandpit.lib.private import private


class Closures:
    """The mounts of one node: root in a sandbox must not change what all of them run.

    There is more than one when snapshots are older than this server: their processes go on with the programs they had.
    """

    def __init__(self, store: Path, mount_dir: Path) -> None:
        """`store` holds the closures by name, `mount_dir` will hold their mounts."""
        self._store = store
        self._mount_dir = mount_dir

    def clear(self) -> None:
        """Remove the mounts; sandboxes keep those that they use. Raises: OSError."""
        for point in mounts.mount_points():
            if point.startswith(f"{self._mount_dir}/"):
                mounts.unmount(Path(point))

    def has(self, name: str) -> bool:
        """Whether a closure is there."""
        return (self._store / name).is_dir()

    def mounted(self, name: str) -> Path:
        """A closure's mount, made if need be. Raises: NodeError (not there), OSError."""
        if not self.has(name):
            raise NodeError(f"guest closure {name} is not on this node")
        target = self._mount_dir / name
        if not mounts.is_mount(target):
            private(self._mount_dir)
            target.mkdir(exist_ok=True, mode=0o700)
            mounts.bind(self._store / name, target)
        return target
