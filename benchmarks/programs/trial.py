"""Runs programs of the catalog, each in a fresh sandbox, through the official client."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2b import CommandExitException, Sandbox, SandboxException
from rich.console import Console
from rich.table import Table
from tests.machines import REPOSITORY

from benchmarks.programs.catalog import BY_NAME, CATALOG
from benchmarks.rig import rig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.programs.catalog import Program

INSTALL_SECONDS = 900
TRY_SECONDS = 240
MEMORY_MB = 4096
"""In gVisor the files that apt installs are in the sandbox's memory."""
_HOME = "/home/user/trial"
_WORDS = 400


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one program in one runtime."""

    program: Program
    runtime: str
    version: str
    failure: str
    """The end of what it wrote; empty if it did what it must."""
    seconds: float
    """Of its task, without the installation."""


def run(names: Sequence[str], runtimes: Iterable[str]) -> bool:
    """Try the programs, all if none is named, print a table; whether all did what they must. Raises: LeakError."""
    trials: list[Trial] = []
    programs = [BY_NAME[name] for name in names] or list(CATALOG)
    try:
        for runtime in runtimes:
            settings = {"SANDPIT_RUNTIME": runtime, "SANDPIT_LIMITS__MEMORY_MB": str(MEMORY_MB)}
            with rig(pool=0, **settings):
                for program in programs:
                    trials.append(_try(program, runtime))
                    print(f"{runtime}: {program.name}: {trials[-1].failure or 'works'}", file=sys.stderr, flush=True)
    finally:
        _show(trials)
    return not any(trial.failure for trial in trials)


def _try(program: Program, runtime: str) -> Trial:
    version, began = "", time.monotonic()
    try:
        with Sandbox.create("base", timeout=3600) as sandbox:
            _install(sandbox, program)
            found = sandbox.commands.run(program.version, cwd=_HOME, timeout=TRY_SECONDS).stdout
            version = found.strip().split("\n")[0]
            began = time.monotonic()
            script = "set -eu\n" + textwrap.dedent(program.script)
            sandbox.files.write(f"{_HOME}/try.sh", script)
            sandbox.commands.run("bash try.sh", cwd=_HOME, timeout=TRY_SECONDS)
    except CommandExitException as failed:
        words = f"status {failed.exit_code}: {failed.stdout}\n{failed.stderr}"
        return Trial(program, runtime, version, words.strip()[-_WORDS:], time.monotonic() - began)
    except SandboxException as failed:
        return Trial(
            program, runtime, version, f"{type(failed).__name__}: {failed}"[-_WORDS:], time.monotonic() - began
        )
    return Trial(program, runtime, version, "", time.monotonic() - began)


def _install(sandbox: Sandbox, program: Program) -> None:
    """Raises: CommandExitException."""
    sandbox.files.make_dir(_HOME)
    if program.debian:
        _install_debian(sandbox, program)
    if program.npm:
        sandbox.files.write("/tmp/modules.tar", _node_modules(program.npm))
        sandbox.commands.run(f"tar -xf /tmp/modules.tar -C {_HOME}", timeout=120)


def _install_debian(sandbox: Sandbox, program: Program) -> None:
    """By apt in the sandbox; what that downloaded is kept for the next one. Raises: CommandExitException."""
    kept = REPOSITORY / ".cache/programs" / f"{program.name}.tar"
    if kept.exists():
        sandbox.files.write("/tmp/apt.tar", kept.read_bytes(), user="root")
        sandbox.commands.run("tar -xf /tmp/apt.tar -C /", user="root", timeout=120)
    else:
        sandbox.commands.run("apt-get update -qq", user="root", timeout=INSTALL_SECONDS)
    command = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends " + " ".join(
        program.debian
    )
    command += " -o APT::Keep-Downloaded-Packages=true > /tmp/apt.log 2>&1 || { tail -n 20 /tmp/apt.log; exit 1; }"
    sandbox.commands.run(command, user="root", timeout=INSTALL_SECONDS)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        paths = "/var/cache/apt/archives/*.deb /var/lib/apt/lists"
        sandbox.commands.run(f"tar -cf /tmp/apt.tar {paths} 2> /dev/null", user="root", timeout=120)
        kept.write_bytes(sandbox.files.read("/tmp/apt.tar", format="bytes", user="root"))
    sandbox.commands.run("rm -rf /tmp/apt.tar; apt-get clean", user="root")  # in gVisor they are in memory


def _node_modules(packages: Sequence[str]) -> bytes:
    """A tar file with what this machine's npm installs. Raises: subprocess.CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "package.json").write_text(json.dumps({"private": True}))
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *packages]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(Path(folder, "node_modules"), "node_modules")
        return packed.getvalue()


def _show(trials: Sequence[Trial]) -> None:
    """A line for each program, with its runtimes side by side."""
    runtimes = list(dict.fromkeys(trial.runtime for trial in trials))
    view = Table("program", "version", *runtimes, title="Programs in sandboxes")
    for name in dict.fromkeys(trial.program.name for trial in trials):
        found = {trial.runtime: trial for trial in trials if trial.program.name == name}
        cells = [f"{'fails, ' * bool(one.failure)}{one.seconds:.1f} s" for one in map(found.get, runtimes) if one]
        view.add_row(name, next((one.version for one in found.values() if one.version), ""), *cells)
    console = Console(width=150)
    console.print(view)
    for trial in trials:
        if trial.failure:
            console.print(f"{trial.program.name}, {trial.runtime}: {trial.failure}", highlight=False, markup=False)
