"""What a check of `sandpit doctor` is, and helpers that all of them use."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sandpit.lib import programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandpit.server.settings import Settings

State = Literal["ok", "warning", "failed", "skipped"]
_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found, and how to mend it."""

    state: State
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. With `root` it is skipped for other users. Without `required`, a failure is a warning."""

    name: str
    run: Callable[[Settings], Result]
    fix: str = ""
    """What to do when `run` fails by an exception; a Result has its own."""
    required: bool = True
    root: bool = False


def perform(check: Check, settings: Settings) -> Result:
    """Run one check; whatever it cannot find out counts as failed."""
    if check.root and os.geteuid() != 0:
        return Result("skipped", "needs root", "sudo sandpit doctor")
    try:
        result = check.run(settings)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        result = Result("failed", _reason(error), check.fix)
    if result.state == "failed" and not check.required:
        return Result("warning", result.detail, result.fix)
    return result


def output(*command: str, stdin: str = "") -> str:
    """What a program prints. Raises: OSError, subprocess.SubprocessError with its last line."""
    return programs.call(*command, text=stdin, check=True, timeout=_SECONDS).stdout


def existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    while not path.exists():
        path = path.parent
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return lines[0] if lines else f"{error.cmd[0]} exited with {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} did not end within {error.timeout:g} s"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing"
    return str(error)
