"""What changed in an overlay's upper directory since the last look: the layer that a step of a template build makes.

Layers are tar streams of the OCI image format (image-spec, layer.md): removed names are empty files `.wh.NAME`, a directory that hides
what lower layers have in it holds `.wh..wh..opq`. Files are told apart by inode and change time, which programs cannot set.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sandpit.protocol.disk import add_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")
_EXCLUDED = frozenset({".disk", ".restore", ".sandpit", "dev", "proc", "run/sandpit", "sys", "usr/libexec/sandpit"})
"""Belongs to the sandbox, not to what is built in it."""
_SUDO = "usr/bin/sudo"
_REAL_SUDO = "usr/libexec/sandpit/sudo"
"""Where the agent keeps the image's sudo while its shim is in place (sandpit.guest.agent.sudo.shim)."""
_COPY = 1 << 20
_DEEPEST = 300
"""Directories in each other; deeper ones cannot be named by their paths for long (PATH_MAX)."""
_ENTRY_BYTES = 300
"""What a name costs in memory, beside its characters."""


@dataclass(slots=True)
class Seen:
    """One name at the last look."""

    inode: int
    changed_ns: int
    whiteout: bool
    directory: bool


@dataclass(slots=True)
class Changes:
    """The looks at one upper directory."""

    root: Path
    shimmed: bool = False
    """Whether this runs inside, where the agent may have put its shim in place of sudo. The host must not follow paths of a sandbox."""
    most_bytes: int = 1 << 40
    """Memory that all names together may take: the host does not let a sandbox decide that."""
    _last: dict[str, Seen] = field(default_factory=dict)

    def look(self) -> None:
        """Take what is there now as known: what a sandbox writes when it starts is in no layer. Raises: OSError."""
        self._last = {name: _seen(status) for name, _, status in self._walk(self.root, "", [self.most_bytes])}

    def write(self, stream: IO[bytes]) -> int:
        """Write what has changed since the last look, which this is the next one of; returns the number of entries. Raises: OSError."""
        before, now = self._last, dict[str, Seen]()
        links: dict[tuple[int, int], str] = {}
        count = 0
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY) as tar:
            for name, path, status in self._walk(self.root, "", [self.most_bytes]):
                seen = now[name] = _seen(status)
                if before.get(name) != seen:
                    self._add(tar, name, path, status, before.get(name), links)
                    count += 1
            for name in _gone(before, now):
                tar.addfile(_empty(_whiteout(name)))
                count += 1
        self._last = now
        return count

    def _walk(self, directory: Path, prefix: str, left: list[int]) -> Iterator[tuple[str, Path, os.stat_result]]:
        """Parents before their children; `left` is how many bytes of memory are left for names. Raises: OSError."""
        if prefix.count("/") > _DEEPEST:
            raise OSError(errno.ENAMETOOLONG, f"more than {_DEEPEST} directories are in each other")
        entries = []
        with os.scandir(directory) as found:
            for entry in found:
                left[0] -= len(prefix) + len(entry.name) + _ENTRY_BYTES
                if left[0] < 0:
                    raise OSError(errno.EFBIG, f"the names of all files take more than {self.most_bytes >> 20} MiB")
                entries.append(entry)
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, path = prefix + entry.name, directory / entry.name
            if name in _EXCLUDED or entry.name.startswith(WHITEOUT):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield name, path, status
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path, f"{name}/", left)

    def _add(
        self,
        tar: tarfile.TarFile,
        name: str,
        path: Path,
        status: os.stat_result,
        before: Seen | None,
        links: dict[tuple[int, int], str],
    ) -> None:
        seen = _seen(status)
        if seen.whiteout:
            tar.addfile(_empty(_whiteout(name)))
            return
        if self.shimmed and name == _SUDO and (real := self.root / _REAL_SUDO).exists():
            self._add_sudo(tar, real)
            return
        add_entry(tar, name, path, status, links)
        if seen.directory and (before is None or before.inode != seen.inode) and _hides(path, replaced=before):
            tar.addfile(_empty(f"{name}/{OPAQUE}"))

    def _add_sudo(self, tar: tarfile.TarFile, real: Path) -> None:
        """The program itself in its place, with the bits that it needs where kernels honour them."""
        with real.open("rb") as file:
            info = tarfile.TarInfo(_SUDO)
            info.mode, info.size = 0o4755, os.fstat(file.fileno()).st_size
            tar.addfile(info, file)


def _seen(status: os.stat_result) -> Seen:
    whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    return Seen(status.st_ino, status.st_ctime_ns, whiteout, stat.S_ISDIR(status.st_mode))


def _hides(directory: Path, *, replaced: Seen | None) -> bool:
    """Whether nothing of a directory of the same name below is to be seen."""
    if replaced is not None:
        return True  # it is another one than at the last look, or was a file
    for attribute in _OPAQUE_ATTRIBUTES:
        try:
            if os.getxattr(directory, attribute, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


def _gone(before: dict[str, Seen], now: dict[str, Seen]) -> Iterator[str]:
    """Names that earlier looks had and that vanished without a whiteout, the topmost ones only."""
    for name, seen in before.items():
        if name in now or seen.whiteout:
            continue
        parent = name.rpartition("/")[0]
        if not parent or (parent in now and now[parent].directory and now[parent].inode == before[parent].inode):
            yield name


def _whiteout(name: str) -> str:
    parent, slash, last = name.rpartition("/")
    return f"{parent}{slash}{WHITEOUT}{last}"


def _empty(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    return info
