"""Numbers: what was measured, how it compares, and whether it is good enough."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Quantity = Literal["p50", "p99", "max", "ratio"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one quantity of a measurement."""

    quantity: Quantity
    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        times = " x" if self.quantity == "ratio" else ""
        return f"{self.quantity} {sign} {self.bound:g}{times}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: values in `unit`, those of the reference, and the targets (design: what good looks like)."""

    name: str
    unit: str
    values: Sequence[float]
    reference: str = ""
    reference_values: Sequence[float] = ()
    targets: tuple[Target, ...] = ()
    note: str = ""
    paired: bool = True
    """Whether values and reference took turns, so that they can be compared pair by pair."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"nothing was measured for {self.name}")

    @property
    def ratio(self) -> float | None:
        """How many times the reference: the median of all pairs, so that a machine that gets slower cancels out."""
        if not self.reference_values:
            return None
        if self.paired:
            return statistics.median(a / b for a, b in zip(self.values, self.reference_values, strict=True))
        return statistics.median(self.values) / statistics.median(self.reference_values)

    def quantity(self, name: Quantity) -> float:
        if name == "ratio":
            assert self.ratio is not None
            return self.ratio
        return max(self.values) if name == "max" else percentile(self.values, 0.5 if name == "p50" else 0.99)

    def met(self, target: Target) -> bool:
        value = self.quantity(target.quantity)
        return value >= target.bound if target.at_least else value <= target.bound


@dataclass(slots=True)
class Clock:
    """Collects how long calls take, in milliseconds."""

    values: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        self.values.append(1000 * (time.perf_counter() - began))
