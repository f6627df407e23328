"""A command and a cell in a running sandbox, against the same done inside it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import e2b
import e2b_code_interpreter

from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement, Target
from benchmarks.subjects import inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.subjects import Scale

NAME = "roundtrip"
_BATCH = 5


def measure(scale: Scale) -> Iterator[Measurement]:
    with rig(pool=1) as made:
        made.settle()
        with e2b.Sandbox.create(timeout=3600) as sandbox:
            made.settle()
            program = f"python3 -c {shlex.quote(inside.SPAWN)} {_BATCH}"
            values, references = _turns(
                scale.runs(16, 1), lambda: sandbox.commands.run("echo hi"), lambda: _inside(sandbox, program)
            )
        targets = (Target("ratio", 1.5), Target("p50", 10))
        yield Measurement("command", "ms", values, "the same spawned inside", references, targets)
        with e2b_code_interpreter.Sandbox.create(timeout=3600) as interpreter:
            made.settle()
            file = kernel_file(interpreter)
            program = f"python3 -c {shlex.quote(inside.CELL)} {_BATCH} {file}"
            values, references = _turns(
                scale.runs(10, 1), lambda: interpreter.run_code("1 + 1"), lambda: _inside(interpreter, program, "root")
            )
        yield Measurement("cell", "ms", values, "jupyter_client inside", references, (Target("ratio", 1.5),))


def kernel_file(sandbox: Any) -> Any:
    """The connection file of the default Python kernel: the one that our program is started with."""
    command = "tr '\\0' ' ' < /proc/$(pgrep -f ipykernel_launcher | head -n 1)/cmdline"
    words = sandbox.commands.run(command, user="root").stdout.split()
    return next(word for word in words if word.endswith(".json"))


def _inside(sandbox: Any, program: str, user: str = "user") -> list[float]:
    values: list[float] = json.loads(sandbox.commands.run(program, user=user, timeout=120).stdout)
    return values


def _turns(
    rounds: int, outside: Callable[[], object], within: Callable[[], list[float]]
) -> tuple[list[float], list[float]]:
    """Batches in turns; the first call of each is not counted."""
    clock, references = Clock(), []
    outside()
    for _ in range(rounds):
        references += within()
        for _ in range(_BATCH):
            clock.time(outside)
    return clock.values, references
