"""Deno's kernel: what our file adds to it, and how it is asked for the end of a cell's output.

The kernel says that it is idle at once, while output and results wait in a queue of their own (seen with 2.9: one result of 150 came
after "idle"). So a silent request follows each cell, which puts a mark into that queue.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandpit.guest.interpreter.kernelspecs import INKERNEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_client.kernelspec import KernelSpec

FLUSH = "globalThis[Symbol.for('sandpit.flush')]?.()"
"""Code for a silent request: the mark comes behind all output of the requests before it."""
_MARK = "application/vnd.sandpit.flushed"
OUTPUT = frozenset({"stream", "display_data", "execute_result", "error"})
"""Messages that may still come for a cell after the kernel took up the request for the mark, as if they were the request's."""


def is_deno(spec: KernelSpec) -> bool:
    """Whether a kernelspec starts Deno's own kernel."""
    return len(spec.argv) > 1 and Path(spec.argv[0]).name == "deno" and spec.argv[1] == "jupyter"


def start_code() -> str:
    """Code for a silent request before the first cell."""
    return (INKERNEL / "deno.js").read_text()


def is_mark(message: Mapping[str, Any]) -> bool:
    """Whether this is the mark that `FLUSH` asked for."""
    return message["msg_type"] == "display_data" and _MARK in message["content"].get("data", {})
