"""`sandpit bench`: the benchmarks belong to the source tree."""

from __future__ import annotations

import os
from pathlib import Path

from sandpit.cli.errors import CliError


def bench(arguments: list[str]) -> None:
    """Become ./bench. Raises: CliError."""
    program = Path(__file__).resolve().parents[4] / "bench"
    if not program.is_file():
        raise CliError("this Sandpit is not run from its source tree, where ./bench is", "run ./bench there")
    os.execv(program, [str(program), *arguments])  # noqa: S606 - becoming it is the point
