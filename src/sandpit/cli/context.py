"""The files that a template copies: which ones, their hash, and their archive."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from glob import glob
from pathlib import Path
from typing import IO

from e2b_dockerfile_utils import PatternMatcher

from sandpit.cli.errors import CliError

_CHUNK = 1 << 20


class Context:
    """A directory, without what its `.dockerignore` names."""

    def __init__(self, root: Path) -> None:
        """Raises: CliError when `.dockerignore` cannot be understood."""
        self._root = root.absolute()
        try:
            lines = (self._root / ".dockerignore").read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            lines = []
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        try:
            self._ignored = PatternMatcher(patterns)
        except ValueError as error:
            raise CliError(f"{self._root / '.dockerignore'}: {error}") from None

    def files(self, source: str, place: str) -> list[Path]:
        """What a COPY of `source` copies, parents before children; `place` names the line in errors. Raises: CliError."""
        relative = os.path.normpath(source.lstrip("/") or ".")
        if relative.split("/")[0] == "..":
            raise CliError(f"{place}: '{source}' is outside of {self._root}", "copy only what is inside, or use --path")
        if os.path.lexists(self._root / relative):
            found = [relative]
        else:
            found = sorted(glob(relative, root_dir=self._root, recursive=True, include_hidden=True))  # noqa: PTH207 - hidden ones too
        paths: dict[str, None] = {}
        for name in found:
            for path in self._below(name):
                paths[path] = None
        if not paths:
            raise CliError(f"{place}: '{source}' is not in {self._root}, or .dockerignore leaves it out")
        return [self._root / path for path in paths]

    def _below(self, name: str) -> list[str]:
        if name != "." and self._ignored.matches(name) and not self._ignored.may_match_under(name):
            return []
        path = self._root / name
        names = [] if name != "." and self._ignored.matches(name) else [name]
        if path.is_dir() and not path.is_symlink():
            for child in sorted(entry.name for entry in path.iterdir()):
                names += self._below(child if name == "." else f"{name}/{child}")
        return names

    def digest(self, files: list[Path]) -> str:
        """SHA-256 over names, modes and content; owners and times do not count."""
        digest = hashlib.sha256()
        for path in files:
            status = path.lstat()
            digest.update(f"{path.relative_to(self._root)}\0{status.st_mode}\0".encode())
            if stat.S_ISLNK(status.st_mode):
                digest.update(os.fsencode(path.readlink()))
            elif stat.S_ISREG(status.st_mode):
                digest.update(str(status.st_size).encode())
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
        return digest.hexdigest()

    def archive(self, files: list[Path]) -> IO[bytes]:
        """A compressed tar, at its start. The caller closes it."""
        target = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
        with tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as tar:
            for path in files:
                name = str(path.relative_to(self._root))
                if name != ".":
                    tar.add(path, name, recursive=False, filter=_ownerless)
        target.seek(0)
        return target


def _ownerless(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info
