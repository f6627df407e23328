"""What the first user's cell would pay for, done before: the result is part of the template's snapshot."""

import importlib
import importlib.util
import io
import sys
from typing import Any, Iterable


def run(preload: Iterable[str]) -> None:
    """Import the modules that are installed, and use what shows results once. The user's namespace stays untouched."""
    for name in preload:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    shell = get_ipython()  # type: ignore[name-defined]  # noqa: F821 - a builtin of the kernel
    show = shell.display_formatter.format
    show([1, "a"])
    show(ValueError("a"))
    if "pandas" in sys.modules:
        show(sys.modules["pandas"].DataFrame({"a": [1.0]}))
    if "matplotlib.pyplot" in sys.modules:
        _draw(show)


def _draw(show: Any) -> None:
    figure = importlib.import_module("matplotlib.figure").Figure()
    figure.subplots().plot([1, 2], label="a")
    figure.savefig(io.BytesIO(), format="png")
    show(figure)
