"""One module per subject: `NAME`, `measure(scale)`, which yields its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.series import Measurement


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    quick: bool

    def runs(self, full: int, quick: int) -> int:
        return quick if self.quick else full


class Subject(Protocol):
    """What a module of this package is."""

    NAME: str

    def measure(self, scale: Scale) -> Iterator[Measurement]: ...
