"""Installing locked packages into a directory, from wheels only: no package's code runs."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from sandpit.lib import programs
from sandpit.provision.pipconfig import uv_environment


class InstallError(Exception):
    """Packages could not be installed. The message ends with what uv said."""


def requirements_dir() -> Path:
    """Where the lock files are: in the source tree, or beside the package when it is installed from a wheel."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package.parents[1] / "requirements", package / "requirements"):
        if (candidate / "guest.lock").exists():
            return candidate
    raise InstallError(f"no lock files beside {package}: this installation of Sandpit is incomplete, install it again")


def install_locked(lock: Path, target: Path, *, cache: Path, image_python: str | None = None) -> None:
    """Install what `lock` names (hashes demanded) into the directory `target`.

    `image_python` ("3.11") installs for that Python, this architecture and glibc >= 2.28; None for the running one.
    Files may be hard links into `cache`: replace them, never write into them. Raises: InstallError.
    """
    command = [_uv(), "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--no-deps"]
    command += [
        "--python",
        sys.executable,
        "--cache-dir",
        str(cache),
        "--target",
        str(target),
        "--requirement",
        str(lock),
    ]
    if image_python:
        machine = sysconfig.get_platform().rpartition("-")[2]
        command += ["--python-version", image_python, "--python-platform", f"{machine}-manylinux_2_28"]
    done = programs.call(*command, env=programs.network_environment(uv_environment()))
    if done.returncode != 0:
        raise InstallError(
            f"installing {lock.name} failed (is an index reachable? pip's settings apply):\n{done.stderr.strip()}"
        )


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise InstallError("uv is missing: install Sandpit's dependencies (pip install -r requirements/server.lock)")
    return found
