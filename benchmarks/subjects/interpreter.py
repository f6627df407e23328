"""The code interpreter with more than `1 + 1`: much output, a figure, and what its processes hold at rest."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import e2b_code_interpreter

from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement, Target
from benchmarks.subjects import inside
from benchmarks.subjects.roundtrip import kernel_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.subjects import Scale

NAME = "interpreter"
_REFERENCE = "jupyter_client inside"
_CELLS = {
    "10 MB of output": "line = 'x' * 1023\nfor _ in range(10240): print(line)",
    "20,000 prints": "for number in range(20_000): print(number)",
    "a figure of 4 plots": (
        "import matplotlib.pyplot as plt, numpy as np\n"
        "x = np.linspace(0, 10, 200)\n"
        "figure, axes = plt.subplots(2, 2)\n"
        "axes[0, 0].plot(x, np.sin(x)); axes[0, 1].scatter(x, np.cos(x))\n"
        "axes[1, 0].bar(list('abc'), [1, 2, 3]); axes[1, 1].pie([1, 2])\n"
        "plt.show()"
    ),
}
_RESIDENT = "for pid in $(pgrep -f '{}'); do grep VmRSS /proc/$pid/status; done"
_PROCESSES = {
    "service": "[r]un.py interpreter",
    "Python kernel": "[i]pykernel_launcher",
    "agent": "[r]un.py stage1 agent",
}


def measure(scale: Scale) -> Iterator[Measurement]:
    with rig(pool=1) as made, e2b_code_interpreter.Sandbox.create(timeout=3600) as sandbox:
        made.settle()
        for part, pattern in _PROCESSES.items():
            name = f"interpreter at rest: {part}, resident"
            reference, values = "", []
            if part != "agent":
                reference, values = "the agent", [_resident(sandbox, _PROCESSES["agent"])]
            yield Measurement(name, "MiB", [_resident(sandbox, pattern)], reference, values)
        file = kernel_file(sandbox)
        for name, code in _CELLS.items():
            clock, references = Clock(), []
            sandbox.run_code(code)
            for _ in range(scale.runs(10, 2)):
                references += _inside(sandbox, file, code)
                clock.time(lambda code=code: _checked(sandbox.run_code(code)))  # type: ignore[misc]
            yield Measurement(name, "ms", clock.values, _REFERENCE, references, (Target("ratio", 1.5),))


def _checked(execution: Any) -> None:
    assert execution.error is None, execution.error
    assert execution.logs.stdout or execution.results[0].chart


def _inside(sandbox: Any, file: str, code: str) -> list[float]:
    command = f"python3 -c {shlex.quote(inside.ANY_CELL)} {file} {shlex.quote(code)}"
    values: list[float] = json.loads(sandbox.commands.run(command, user="root", timeout=120).stdout)
    return values


def _resident(sandbox: Any, pattern: str) -> float:
    """MiB that the sandbox's own kernel counts for the processes whose command line matches, shared pages included."""
    lines = sandbox.commands.run(_RESIDENT.format(pattern), user="root").stdout.splitlines()
    return sum(int(line.split()[1]) for line in lines) / 1024
