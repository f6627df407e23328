"""`./bench`: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machines import why_not

from benchmarks import report
from benchmarks.subjects import (
    Scale,
    build,
    burst,
    cold,
    crowd,
    idle,
    interpreter,
    pause,
    rounds,
    roundtrip,
    soak,
    transfer,
    warm,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.series import Measurement
    from benchmarks.subjects import Subject

SUBJECTS: tuple[Subject, ...] = (warm, cold, roundtrip, interpreter, transfer, pause, burst, idle, build)
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Exits with 0 also when targets are missed: the machine may be small or busy. Raises: LeakError."""
    options = _parser().parse_args(arguments)
    if (reason := why_not()) is not None:
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # not before everything is given back
    rows: list[Measurement] = []
    try:
        if options.command == "soak":
            _collect(rows, "soak", soak.measure(options.cycles))
        elif options.command == "rounds":
            _collect(rows, "rounds", rounds.measure(options.rounds))
        elif options.command == "crowd":
            _collect(rows, "crowd", crowd.measure(options.sandboxes))
        else:
            for subject in SUBJECTS:
                if not options.only or subject.NAME in options.only:
                    _collect(rows, subject.NAME, subject.measure(Scale(options.quick)))
    finally:
        if rows:
            report.show(rows)
            path = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
            report.write(rows, path)
            print(f"every single value: {path}")


def _collect(rows: list[Measurement], name: str, measured: Iterable[Measurement]) -> None:
    began = time.monotonic()
    rows.extend(measured)
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./bench", description="Measure a server of its own on this machine.")
    names = [subject.NAME for subject in SUBJECTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few runs of each: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write every single value")
    commands = parser.add_subparsers(dest="command")
    cycles = commands.add_parser("soak", help="create and kill N times, then look for what was left behind")
    cycles.add_argument("cycles", type=int, metavar="N")
    text = "N idle sandboxes at once: what each costs, and how the server answers beside them"
    commands.add_parser("crowd", help=text).add_argument("sandboxes", type=int, metavar="N")
    text = "pause and resume one sandbox N times, all of its state changed and checked each time"
    commands.add_parser("rounds", help=text).add_argument("rounds", type=int, metavar="N")
    return parser


if __name__ == "__main__":
    main()
