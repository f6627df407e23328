"""`sandpit doctor`: what this machine has, what it lacks, how to mend it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from sandpit.cli.doctor import host as checks_host
from sandpit.cli.doctor import kernel as checks_kernel
from sandpit.cli.doctor import server as checks_server
from sandpit.cli.doctor import tls as checks_tls
from sandpit.cli.doctor.checks import perform
from sandpit.cli.server.local import load_settings

if TYPE_CHECKING:
    from sandpit.cli.doctor.checks import Result

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def doctor(*, as_json: bool) -> None:
    """Run every check and print what it found. Exits with 1 when something that is needed is missing."""
    settings = load_settings()
    results = [
        (check, perform(check, settings))
        for check in (
            *checks_host.FIRST,
            *checks_kernel.CHECKS,
            *checks_host.LAST,
            *checks_tls.CHECKS,
            *checks_server.CHECKS,
        )
    ]
    failed = [check.name for check, result in results if result.state == "failed"]
    if as_json:
        rows = [
            {"check": check.name, "state": result.state, "detail": result.detail, "fix": result.fix}
            for check, result in results
        ]
        sys.stdout.write(json.dumps({"ok": not failed, "checks": rows}, indent=1) + "\n")
    else:
        _show([(check.name, result) for check, result in results], failed)
    sys.exit(1 if failed else 0)


def _show(results: list[tuple[str, Result]], failed: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    width = max(len(name) for name, _ in results)
    for name, result in results:
        console.print(Text.assemble((f"{result.state:8}", _STYLES[result.state]), f" {name:{width}}  {result.detail}"))
        if result.fix and result.state != "ok":
            console.print(Text(f"{'':8} {'':{width}}  fix: {result.fix}"))
    console.print()
    if failed:
        console.print(Text(f"Not ready: {', '.join(failed)}", "bold red"))
    else:
        console.print("This machine can run Sandpit.")
