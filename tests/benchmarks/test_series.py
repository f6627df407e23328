from __future__ import annotations

import pytest
from benchmarks.series import Measurement, Target, percentile

from benchmarks import report


def test_percentiles_are_measured_values() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2


def test_ratio_of_pairs_and_of_medians() -> None:
    slower = Measurement("x", "ms", [1, 10, 100], "y", [1, 5, 50])
    assert slower.ratio == 2
    apart = Measurement("x", "ms", [3, 4, 5], "y", [2, 2], paired=False)
    assert apart.ratio == 2
    assert Measurement("x", "ms", [1]).ratio is None


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("p50", 2), True),
        (Target("p50", 1.9), False),
        (Target("p99", 2.9), False),
        (Target("max", 3), True),
        (Target("ratio", 0.5), True),
        (Target("ratio", 0.49), False),
        (Target("ratio", 0.5, at_least=True), True),
        (Target("ratio", 0.51, at_least=True), False),
    ],
)
def test_targets(target: Target, met: bool) -> None:
    row = Measurement("x", "ms", [1, 2, 3], "y", [2, 4, 6], (target,))
    assert row.met(target) == met
    assert report.as_json([row])["measurements"][0]["targets"] == [{"target": str(target), "met": met}]


def test_nothing_measured_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Measurement("x", "ms", [])
