"""From `Sandbox.create()` to the first command's output and the first cell's result, a sandbox being ready in the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import e2b
import e2b_code_interpreter

from benchmarks.bare import Bare
from benchmarks.rig import Rig, rig
from benchmarks.series import Clock, Measurement, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.subjects import Scale

NAME = "warm"
_REFERENCE = "runsc restore"


def measure(scale: Scale) -> Iterator[Measurement]:
    with rig(pool=2) as made:
        values, create, bare = _turns(made, scale.runs(60, 3), _first_command, "base")
        targets = (Target("p50", 40), Target("p99", 100))
        yield Measurement("warm create → first command", "ms", values, _REFERENCE, bare, targets)
        yield Measurement("warm create, alone", "ms", create, _REFERENCE, bare)
        values, _, bare = _turns(made, scale.runs(40, 2), _first_cell, "code-interpreter-v1")
        yield Measurement("warm create → first cell", "ms", values, _REFERENCE, bare, (Target("p50", 60),))


def _first_command(create: Clock) -> Any:
    with_sandbox: list[Any] = []
    create.time(lambda: with_sandbox.append(e2b.Sandbox.create()))
    [sandbox] = with_sandbox
    assert sandbox.commands.run("echo hi").stdout == "hi\n"
    return sandbox


def _first_cell(create: Clock) -> Any:
    with_sandbox: list[Any] = []
    create.time(lambda: with_sandbox.append(e2b_code_interpreter.Sandbox.create()))
    [sandbox] = with_sandbox
    assert sandbox.run_code("1 + 1").text == "2"
    return sandbox


def _turns(
    made: Rig, runs: int, first: Callable[[Clock], Any], template: str
) -> tuple[list[float], list[float], list[float]]:
    """Times of the whole, of the create alone, and of the reference, in turns. One run before them does not count."""
    bare = Bare(made, template)
    whole, create, references = Clock(), Clock(), []
    for _ in range(runs + 1):
        made.settle()
        sandboxes: list[Any] = []
        whole.time(lambda got=sandboxes: got.append(first(create)))  # type: ignore[misc]
        sandboxes[0].kill()
        made.settle()
        references.append(bare.restore())
    return whole.values[1:], create.values[1:], references[1:]
