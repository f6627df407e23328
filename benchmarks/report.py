"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.series import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.series import Measurement


def table(rows: Sequence[Measurement]) -> Table:
    """One line for each measurement."""
    view = Table(title=f"Sandpit benchmarks, {machine()['cpus']} CPUs, load {os.getloadavg()[0]:.1f}")
    for name in ("measurement", "min", "p50", "p99", "n", "reference", "min", "p50", "ratio", "target"):
        view.add_column(name, justify="left" if name in ("measurement", "reference", "target") else "right")
    for row in rows:
        own, other = _three(row.values), _three(row.reference_values)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        verdicts = ", ".join(
            f"[{'green' if row.met(one) else 'red'}]{one} {'met' if row.met(one) else 'missed'}[/]"
            for one in row.targets
        )
        cells = [*own, str(len(row.values)), row.reference, *other[:2], ratio, verdicts]
        view.add_row(f"{row.name} [{row.unit}]".replace("[", r"\["), *cells)
    return view


def show(rows: Sequence[Measurement]) -> None:
    """Print the table and the notes."""
    console = Console(width=None if os.isatty(1) else 180)
    console.print(table(rows))
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False, markup=False)


def as_json(rows: Sequence[Measurement]) -> dict[str, Any]:
    """Everything, every single value included."""
    return {"machine": machine(), "measurements": [_row(row) for row in rows]}


def write(rows: Sequence[Measurement], path: Path) -> None:
    """Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(rows), indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "load": list(os.getloadavg()),
    }


def _row(row: Measurement) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "values": list(row.values),
        "reference": row.reference,
        "reference_values": list(row.reference_values),
        "ratio": row.ratio,
        "targets": [{"target": str(one), "met": row.met(one)} for one in row.targets],
        "note": row.note,
    }


def _three(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return "", "", ""
    return _text(min(values)), _text(percentile(values, 0.5)), _text(percentile(values, 0.99))


def _text(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
