"""Unpacks a layer that a stranger made: a process of its own, chrooted into the empty directory that it fills.

    python -m sandpit.templates.layers.unpack DIRECTORY LIMITS LOWER... <layer.tar

`LIMITS` is JSON (`Limits`); `LOWER` are the layers below, lowest first. The result is in overlayfs upper format.

What a layer may not have: paths with `..`, devices (below `dev/` they are left out: a sandbox has a /dev of its own), more entries or bytes
than the limits. Extended attributes other than `user.*` and `security.capability` are left out, since `trusted.overlay.*` would speak to
the host's overlay. Whatever goes wrong in here, paths cannot leave the directory: it is this process's root.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import stat
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, cast

from sandpit.templates.layers.lowers import OPEN_DIRECTORY, OVERLAY_OPAQUE, is_opaque, is_whiteout, open_beneath, shows

if TYPE_CHECKING:
    from collections.abc import Sequence

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_CAPABILITY = "security.capability"
_MEMORY = 1 << 30
"""Address space: tar headers may ask for any amount of memory."""
_COPY = 1 << 20
_NAME_BYTES = 4096
_DEPTH = 256
"""Directories in directories: what walks through a tree later takes a stack frame for each."""
_HEADERS = 8192
"""Bytes of an archive beside the content, for each entry: two blocks, more for long names."""


class Refused(Exception):
    """The layer has something that no layer may have. The message says what."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a layer may unpack to."""

    bytes: int
    """Sum of all files' sizes, holes included."""
    entries: int


class Unpacker:
    """Fills the root directory of this process."""

    def __init__(self, limits: Limits, lowers: Sequence[int]) -> None:
        """`lowers` are descriptors of the layers below, topmost first."""
        self._limits = limits
        self._lowers = lowers
        self._bytes = 0
        self._entries = 0
        self._made: set[str] = set()
        """Directories that this layer has described; others take after the layer below."""
        self._times: list[tuple[str, float]] = []
        self._whiteouts: list[str] = []

    def unpack(self, stream: IO[bytes]) -> None:
        """Raises: Refused, OSError, tarfile.TarError."""
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_COPY, errors="surrogateescape") as tar:
            for member in tar:
                self._entries += 1
                self._bytes += max(0, member.size) if member.isreg() else 0
                if self._entries > self._limits.entries:
                    raise Refused(f"more than {self._limits.entries} files")
                if self._bytes > self._limits.bytes:
                    raise Refused(f"more than {self._limits.bytes >> 20} MiB")
                self._add(tar, member)
                tar.members = []  # type: ignore[attr-defined] # it would remember every header
        self._drop_idle_whiteouts()
        for path, mtime in reversed(self._times):
            with contextlib.suppress(OSError, OverflowError):
                os.utime(path, (mtime, mtime), follow_symlinks=False)

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _beneath(member.name)
        if path == "/":
            self._describe(member, "/")
            return
        parent, _, name = path.rpartition("/")
        self._parents(parent)
        if os.path.realpath(parent or "/").count("/") >= _DEPTH:  # links may make it longer than it looks
            raise Refused(f"{_DEPTH} directories in each other: {path[:100]}...")
        if name == _OPAQUE:
            os.setxattr(parent or "/", OVERLAY_OPAQUE, b"y")
            return
        if name.startswith(_WHITEOUT):
            self._hide(f"{parent}/{name.removeprefix(_WHITEOUT)}")
            return
        if member.ischr() or member.isblk():
            if not path.startswith("/dev/"):
                raise Refused(f"the device {path}: sandboxes have devices of their own")
            return
        self._make(tar, member, path)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isdir():
            if not _is_directory(path):
                _remove(path)
                os.mkdir(path, 0o700)
            self._describe(member, path)
            return
        if member.islnk():
            self._link(member, path)
            return
        _remove(path)
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isfifo():
            os.mkfifo(path, 0o600)
        elif member.isreg():
            tar.makefile(member, path)
        else:
            raise Refused(f"{path} is of the unknown kind {member.type!r}")
        self._describe(member, path)

    def _link(self, member: tarfile.TarInfo, path: str) -> None:
        target = _beneath(member.linkname)
        if target == path:
            return
        self._parents(target.rpartition("/")[0])
        if not os.path.lexists(target):
            self._copy_up(target)
        _remove(path)
        os.link(target, path, follow_symlinks=False)

    def _describe(self, member: tarfile.TarInfo, path: str) -> None:
        """Owner, then mode, which a change of owner takes bits from; then attributes, which it would remove."""
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
        for key, text in member.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name != key and (name == _CAPABILITY or name.startswith("user.")):
                with contextlib.suppress(OSError):  # symbolic links and pipes can have none
                    os.setxattr(path, name, text.encode("utf-8", "surrogateescape"), follow_symlinks=False)
        if member.isdir():
            self._made.add(path)
            self._times.append((path, member.mtime))
        else:
            with contextlib.suppress(OverflowError):
                os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)

    def _hide(self, path: str) -> None:
        if path.endswith(("/", "/.", "/..")):
            raise Refused("a whiteout without a name")
        _remove(path)
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        self._whiteouts.append(path)

    def _drop_idle_whiteouts(self) -> None:
        """Those that hide nothing: gVisor's overlay leaves one behind every rename.

        Linux lists them in a directory that it need not merge, as names that do not exist.
        """
        for path in self._whiteouts:
            with contextlib.suppress(OSError):  # something else has taken its place, or that of a directory above
                if is_whiteout(os.lstat(path)) and not self._shines_through(path):
                    os.unlink(path)

    def _shines_through(self, path: str) -> bool:
        """Whether the layers below show something at `path` where this one has nothing. Raises: OSError."""
        folder, _, name = path.rpartition("/")
        real = PurePosixPath(os.path.realpath(folder or "/"))
        if any(is_opaque(str(directory)) for directory in (real, *real.parents)):
            return False
        for lower in self._lowers:
            found = shows(lower, str(real / name))
            if found is not None:
                return found
        return False

    def _parents(self, path: str) -> None:
        """Directories that the layer does not describe are what they are in the layers below."""
        if not path or path in self._made or os.path.isdir(path):
            return
        self._parents(path.rpartition("/")[0])
        _remove(path)
        os.mkdir(path, 0o755)
        below = self._find(path, os.O_DIRECTORY)
        if below is not None:
            try:
                status = os.fstat(below)
                os.chown(path, status.st_uid, status.st_gid)
                os.chmod(path, stat.S_IMODE(status.st_mode))
            finally:
                os.close(below)

    def _copy_up(self, path: str) -> None:
        """A hard link to a file of a layer below: the file belongs to this layer too, as overlayfs itself would have it."""
        below = self._find(path, 0)
        if below is None:
            raise Refused(f"a hard link to {path}, which is not there")
        with os.fdopen(below, "rb") as source, open(path, "xb") as file:
            status = os.fstat(below)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"a hard link to {path}, which is no file")
            self._bytes += status.st_size
            if self._bytes > self._limits.bytes:
                raise Refused(f"more than {self._limits.bytes >> 20} MiB")
            shutil.copyfileobj(source, file, _COPY)
            os.chown(path, status.st_uid, status.st_gid)
            os.chmod(path, stat.S_IMODE(status.st_mode))

    def _find(self, path: str, flags: int) -> int | None:
        """Open what a layer below has at `path`, without following a link anywhere."""
        for lower in self._lowers:
            found = open_beneath(lower, path, flags)
            if found is not None:
                return found if found >= 0 else None
        return None


def _beneath(name: str) -> str:
    """An absolute path in the layer. Raises: Refused."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"the path {name[:200]!r} leads out of the layer")
    if len(os.fsencode(name)) > _NAME_BYTES or len(parts) > _DEPTH or "\0" in name:
        raise Refused(f"the path {name[:200]!r} is no path")
    return "/" + "/".join(parts)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _remove(path: str) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class _Bounded(io.RawIOBase):
    """A stream that ends with an error instead of giving more than it may: archives of nothing explode too."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise Refused("the archive is longer than all its files may be")
        return data


def main() -> None:
    """Unpack standard input; status 1 and a message on standard error when it cannot be."""
    directory, limits_json, *lower_paths = sys.argv[1:]
    limits = Limits(**json.loads(limits_json))
    lowers = [os.open(path, OPEN_DIRECTORY) for path in reversed(lower_paths)]
    Path(directory).chmod(0o755)
    os.chroot(directory)
    os.chdir("/")
    os.umask(0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    source = io.BufferedReader(io.FileIO(0, closefd=False), _COPY)
    compressed = source.peek(2)[:2] == b"\x1f\x8b"
    bound = limits.bytes + limits.entries * _HEADERS
    try:
        stream = _Bounded(cast("IO[bytes]", gzip.GzipFile(fileobj=source) if compressed else source), bound)
        Unpacker(limits, lowers).unpack(cast("IO[bytes]", stream))
    except (Refused, OSError, tarfile.TarError, EOFError, MemoryError, ValueError) as error:
        sys.exit(str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
