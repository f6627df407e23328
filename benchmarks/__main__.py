"""`./bench`: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.machines import RUNTIMES, why_not

from benchmarks import report
from benchmarks.programs import trial
from benchmarks.programs.catalog import BY_NAME
from benchmarks.subjects import (
    Scale,
    build,
    burst,
    cold,
    crowd,
    idle,
    interpreter,
    model,
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
    """Exits with 0 also when targets are missed: the machine may be small or busy; with 1 if a program fails. Raises: LeakError."""
    options = _parser().parse_args(arguments)
    if (reason := why_not()) is not None:
        sys.exit(f"error: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # not before everything is given back
    if options.command == "programs":
        sys.exit(0 if trial.run(options.names, (options.runtime,) if options.runtime else RUNTIMES) else 1)
    rows: list[Measurement] = []
    try:
        if options.command == "soak":
            _collect(rows, "soak", soak.measure(options.cycles, options.minutes))
        elif options.command == "rounds":
            _collect(rows, "rounds", rounds.measure(options.rounds))
        elif options.command == "crowd":
            _collect(rows, "crowd", crowd.measure(options.sandboxes))
        elif options.command == "model":
            _collect(rows, "model", model.measure(options.operations, options.seed, options.runtime))
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
    """Rows count as soon as they are measured: what comes later may fail or be broken off."""
    began = time.monotonic()
    for row in measured:
        rows.append(row)  # noqa: PERF402
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./bench", description="Measure a server of its own on this machine.")
    names = [subject.NAME for subject in SUBJECTS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few runs of each: whether it works, not how fast")
    to: dict[str, Any] = {"type": Path, "metavar": "PATH", "help": "where to write every single value"}
    parser.add_argument("--json", **to)
    commands = parser.add_subparsers(dest="command")
    text = "N idle sandboxes at once: what each costs, and how the server answers beside them"
    commands.add_parser("crowd", help=text).add_argument("sandboxes", type=_count, metavar="N")
    cycles = commands.add_parser(
        "soak", help="create, run a command and kill N times, then look for what was left behind"
    )
    cycles.add_argument("cycles", type=_count, metavar="N")
    cycles.add_argument("--minutes", type=float, default=math.inf, help="stop after this time, with the figures so far")
    text = "pause and resume one sandbox N times, all of its state changed and checked each time"
    turns = commands.add_parser("rounds", help=text)
    turns.add_argument("rounds", type=_count, metavar="N")
    text = "N random operations by several callers while the server is killed now and then, checked against a model"
    random = commands.add_parser("model", help=text)
    random.add_argument("operations", type=_count, metavar="N")
    random.add_argument("--seed", type=int, help="of an earlier run")
    random.add_argument("--runtime", choices=RUNTIMES, help="the only one; both, if none is given")
    text = "real programs, installed in a fresh sandbox each: whether they do what they must (docs/programs.md)"
    programs = commands.add_parser("programs", help=text)
    programs.add_argument(
        "names", nargs="*", metavar="NAME", type=_program, help=f"one of {', '.join(BY_NAME)}; all, if none"
    )
    programs.add_argument("--runtime", choices=RUNTIMES, help="the only one; both, if none is given")
    for command in (cycles, turns, random):
        command.add_argument("--json", default=argparse.SUPPRESS, **to)
    return parser


def _program(name: str) -> str:
    """Raises: argparse.ArgumentTypeError."""
    if name not in BY_NAME:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(BY_NAME)}")
    return name


def _count(text: str) -> int:
    """Raises: argparse.ArgumentTypeError."""
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return number


if __name__ == "__main__":
    main()
