"""What Sandpit needs on this machine besides Python packages: some Debian packages, and a gVisor that works.

Standard library only, so that it runs before anything is installed: `python -m sandpit.provision host --data-dir DIR`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from sandpit.lib import programs
from sandpit.lib.private import private
from sandpit.provision.debian import KEYRING, DebianError, PackageCache, run

Progress = Callable[[str], None]

_PACKAGES = {
    "crun": "crun",
    "nft": "nftables",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "mkfs.erofs": "erofs-utils",
    "mkfs.ext4": "e2fsprogs",
    "sysctl": "procps",
    "iptables": "iptables",
    "skopeo": "skopeo",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "xz": "xz-utils",
    "openssl": "openssl",
    "zstd": "zstd",
}
"""Program -> the Debian package that has it."""
_FILES = {
    KEYRING: "debian-archive-keyring",
    Path("/usr/share/containers/seccomp.json"): "golang-github-containers-common",
}
"""File -> the Debian package that has it."""

_LOCAL_NAMES = "libnss-myhostname"
"""Has the C library, and so every program, resolve names below `localhost` (docs/legacy.md)."""
_LOCAL_NAME = "api.e2b.localhost"

_RUNSC_RELEASE = "trixie"
"""bookworm's gVisor has no systrap platform, sid's panics because of its Go version."""
_RUNSC_OLDEST = 20230601
"""Date of a release: the systrap platform is usable from here on."""
_LOCK_SECONDS = 300
"""How long other installations on this machine are waited for."""
_SYSTEM_PATH = programs.SYSTEM_PATH


class HostError(Exception):
    """This machine cannot be prepared. The message says why, and what to do."""


def missing_packages() -> list[str]:
    """Debian packages whose programs or files are not on this machine."""
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program, path=path) is None]
    return missing + [package for file, package in _FILES.items() if not file.exists()]


def useful_packages() -> list[str]:
    """Debian packages that are not needed and make things easier."""
    try:
        done = programs.call("getent", "ahosts", _LOCAL_NAME, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if done.returncode == 0 else [_LOCAL_NAMES]


def install_packages(progress: Progress) -> list[str]:
    """Install what is missing and return its names; nothing happens when nothing is. Raises: HostError, DebianError."""
    needed, useful = missing_packages(), useful_packages()
    if useful and not needed:
        try:
            return _install(useful, progress)
        except (HostError, DebianError) as error:
            progress(f"host: {' '.join(useful)} would help (docs/legacy.md), but was not installed: {error}")
            return []
    return _install(needed + useful, progress) if needed else []


def _install(missing: list[str], progress: Progress) -> list[str]:
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise HostError(f"these programs are needed, and only Debian's packages can be installed for you: {names}")
    if os.geteuid() != 0:
        raise HostError(f"root is needed to install: apt-get install --no-install-recommends {names}")
    progress(f"host: installing {names}")
    run(["apt-get", "update", "-qq"], "refreshing the package lists")
    options = ["-y", "-qq", f"-oDPkg::Lock::Timeout={_LOCK_SECONDS}", "--no-install-recommends"]
    try:
        run(["apt-get", "install", *options, *missing], f"installing {names}")
    except DebianError as error:
        progress(f"host: completing an installation that was broken off ({str(error).splitlines()[-1]})")
        run(["dpkg", "--configure", "-a"], "completing an earlier installation")
        run(["apt-get", "install", *options, *missing], f"installing {names}")
    return missing


def provide_runsc(data_dir: Path, progress: Progress, works: Callable[[Path], bool] | None = None) -> Path:
    """`<data_dir>/bin/runsc`: the vendor's release from PATH if it is good, else Debian's package.

    The copy stays from then on, because snapshots restore only with the same binary; `runsc.json` has its digest.
    `works` is a deeper test of a candidate than its version. Raises: HostError, DebianError.
    """
    target = data_dir.absolute() / "bin/runsc"
    unpacked = target.parent / ".unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of an earlier call that was killed
    if _intact(target):
        return target
    private(target.parent)
    acceptable = works or (lambda _: True)
    installed = shutil.which("runsc", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if (
        installed
        and "release-" in (runsc_version(Path(installed)) or "")
        and _recent(Path(installed))
        and acceptable(Path(installed))
    ):
        progress(f"host: taking gVisor from {installed}")
        return _adopt(Path(installed), target, source=installed)
    progress(f"host: fetching gVisor from Debian {_RUNSC_RELEASE}")
    try:
        unpacked.mkdir(exist_ok=True)
        debian = PackageCache(data_dir / f"cache/apt-{_RUNSC_RELEASE}", _RUNSC_RELEASE)
        debian.extract(["runsc"], unpacked, only=["./usr/bin/runsc"])
        candidate = unpacked / "usr/bin/runsc"
        if not _recent(candidate) or not acceptable(candidate):
            raise HostError(
                f"Debian {_RUNSC_RELEASE}'s gVisor does not run here; put a current release of runsc on PATH"
            )
        return _adopt(candidate, target, source=f"Debian {_RUNSC_RELEASE}")
    except DebianError as error:
        raise HostError(
            f"no working gVisor: put a current release of runsc on PATH. Fetching Debian's failed too: {error}"
        ) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def runsc_version(binary: Path) -> str | None:
    """What `runsc --version` says in its first line, None if it does not run."""
    try:
        done = programs.call(str(binary), "--version", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.partition("\n")[0] if done.returncode == 0 else None


def _recent(binary: Path) -> bool:
    dates = re.findall(r"\b(20\d{6})\b", runsc_version(binary) or "")
    return bool(dates) and int(dates[0]) >= _RUNSC_OLDEST


def _intact(target: Path) -> bool:
    """Whether the recorded binary is there: by size and time, so that the second start need not read 40 MB."""
    try:
        about = json.loads(target.with_name("runsc.json").read_text())
        status = target.stat()
    except (FileNotFoundError, ValueError):
        return False
    return bool(about["size"] == status.st_size and about["mtime_ns"] == status.st_mtime_ns)


def _adopt(binary: Path, target: Path, *, source: str) -> Path:
    fresh = target.with_name(".runsc.new")
    shutil.copyfile(binary, fresh)
    fresh.chmod(0o755)
    status = fresh.stat()
    about = {
        "source": source,
        "version": runsc_version(fresh),
        "sha256": hashlib.sha256(fresh.read_bytes()).hexdigest(),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    fresh.rename(target)
    record = target.with_name(".runsc.json.new")
    record.write_text(json.dumps(about, indent=1) + "\n")
    record.rename(target.with_name("runsc.json"))
    return target
