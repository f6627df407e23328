"""Packages from the Debian mirrors that this machine already uses.

Standard library only: it also runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sandpit.lib import programs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MIRROR_VARIABLE = "SANDPIT_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_FIELDS = ("REPO_URI", "ORIGIN", "LABEL", "CODENAME")
_NETWORK_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv")


class DebianError(Exception):
    """Debian packages could not be had. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Archives:
    """Addresses of Debian's archives, best first."""

    main: tuple[str, ...]
    security: tuple[str, ...] = ()
    updates: bool = False
    """Whether the main archive's `-updates` suites are there as well."""

    def sources(self, release: str, mirror: int = 0) -> list[str]:
        """Lines of a sources.list for a Debian release, from one of the main mirrors."""
        lines = [f"deb {self.main[mirror]} {release} main"]
        if self.updates:
            lines.append(f"deb {self.main[mirror]} {release}-updates main")
        return lines + [f"deb {uri} {release}-security main" for uri in self.security[:1]]


def machine_archives() -> Archives:
    """The archives in this machine's apt configuration, else what SANDPIT_DEBIAN_MIRROR names. Raises: DebianError.

    apt itself is asked, so every way to write a source is understood; a signed Release file says what is Debian's.
    """
    if named := os.environ.get(MIRROR_VARIABLE):
        return Archives(tuple(named.split()))
    found = _index_targets()
    if not any(target["ORIGIN"] == "Debian" for target in found):
        run(["apt-get", "update", "-qq"], "refreshing the package lists")  # the origin is known only from fetched lists
        found = _index_targets()
    debian = [target for target in found if target["ORIGIN"] == "Debian"]
    main = _unique(t["REPO_URI"] for t in debian if t["LABEL"] == "Debian")
    if not main:
        raise DebianError(
            f"this machine's apt sources name no Debian mirror: set {MIRROR_VARIABLE} to the address of one"
        )
    security = _unique(t["REPO_URI"] for t in debian if t["LABEL"] == "Debian-Security")
    return Archives(main, security, any(t["CODENAME"].endswith("-updates") for t in debian))


def network_options() -> list[str]:
    """apt's proxy, certificate and date settings of this machine, as `Name "value";` lines."""
    lines = run(["apt-config", "dump"], "reading apt's configuration").splitlines()
    return [line for line in lines if line.startswith(_NETWORK_OPTIONS) and not line.endswith('"";')]


class PackageCache:
    """Packages of one Debian release in a directory, fetched without touching this machine's own package lists."""

    def __init__(self, folder: Path, release: str) -> None:
        self.folder = folder.absolute()
        self.release = release
        self._ready = False

    def extract(self, packages: Sequence[str], target: Path, *, only: Sequence[str] = ()) -> None:
        """Unpack packages' files into `target`: no maintainer script runs.

        `only` keeps what matches these tar patterns. Raises: DebianError.
        """
        for archive in self.fetch(packages):
            patterns = ["--wildcards", *only] if only else ["--exclude=./usr/share/doc", "--exclude=./usr/share/man"]
            command = ["tar", "-x", "-C", str(target), "--keep-directory-symlink", "--no-same-owner", *patterns]
            with programs.spawn("dpkg-deb", "--fsys-tarfile", str(archive), stdout=subprocess.PIPE) as data:
                unpacked = programs.call(*command, stdin=data.stdout)
            if data.returncode != 0 or unpacked.returncode != 0:
                raise DebianError(f"unpacking {archive.name} failed: {unpacked.stderr.strip()}; is the disk full?")

    def fetch(self, packages: Sequence[str]) -> list[Path]:
        """Download the release's current version of each package, unless it is here already. Raises: DebianError."""
        self._update()
        wanted: dict[str, int] = {}
        for line in self._apt("download", "--print-uris", *packages).splitlines():  # 'uri' name size hash
            _, name, size = line.split()[:3]
            wanted[name] = int(size)
        kept, partial = self.folder / "archives", self.folder / "partial"
        missing = [
            name for name, size in wanted.items() if not (kept / name).exists() or (kept / name).stat().st_size != size
        ]
        if missing:
            self._apt("download", "-q", *{name.partition("_")[0] for name in missing}, cwd=partial)
        for name in missing:
            (partial / name).rename(kept / name)
        return [kept / name for name in wanted]

    def _update(self) -> None:
        if self._ready:
            return
        for name in ("lists/partial", "archives/partial", "partial", "keys"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        gather_keys(self.folder / "keys")
        archives = machine_archives()
        problems = []
        for mirror in range(len(archives.main)):
            (self.folder / "sources.list").write_text("\n".join(archives.sources(self.release, mirror)) + "\n")
            try:
                self._apt("update", "-q")
            except DebianError as error:
                problems.append(str(error))
                continue
            self._ready = True
            return
        raise DebianError("\n".join(problems))

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::trustedparts": self.folder / "keys",
            "Dir::State::Lists": self.folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self.folder,
            "Dir::Cache::archives": self.folder / "archives",
            "APT::Sandbox::User": "root",
            "APT::Update::Post-Invoke-Success": "",
            "Acquire::Languages": "none",
        }
        command = ["apt-get", *(f"-o{name}={value}" for name, value in options.items()), *arguments]
        return run(command, f"fetching Debian {self.release} packages", cwd=cwd)


def gather_keys(folder: Path) -> None:
    """Put the keys that Debian's archives may be signed with into `folder`. Raises: DebianError if there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    trusted = [file for file in Path("/etc/apt/trusted.gpg.d").glob("*") if file.suffix in {".gpg", ".asc"}]
    for key in [KEYRING, *trusted]:
        if key.exists():
            shutil.copyfile(key, folder / key.name)
    if not any(folder.iterdir()):
        raise DebianError("no keys to verify Debian's packages with: install the package debian-archive-keyring")


def run(command: Sequence[str], what: str, *, cwd: Path | None = None) -> str:
    """Run a program, in English and without questions; return its output. Raises: DebianError."""
    environment = programs.network_environment(DEBIAN_FRONTEND="noninteractive")
    try:
        done = programs.call(*command, cwd=cwd, env=environment)
    except FileNotFoundError as error:
        raise DebianError(f"{what} needs the program {command[0]}, which is not installed") from error
    if done.returncode != 0:
        words = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-15:])
        raise DebianError(f"{what} failed ({command[0]} exited with {done.returncode}):\n{words}")
    return done.stdout


def _index_targets() -> list[dict[str, str]]:
    form = "\t".join(f"$({name})" for name in _FIELDS)
    lines = run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], "listing the apt sources"
    ).splitlines()
    return [dict(zip(_FIELDS, line.split("\t"), strict=True)) for line in lines]


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.rstrip("/") for item in items))
