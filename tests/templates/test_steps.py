"""What steps mean, and how much they may come to."""

from __future__ import annotations

import pytest

from sandpit.contract.builder import BuildStep
from sandpit.templates.steps import MAX_ENVIRONMENT_BYTES, MAX_VALUE_BYTES, Context, TooLong, after, expand


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$A ${A} ${B:-b} ${A:-b} $B|", "1 1 b 1 |"),
        ("${A:-no end $A", "${A:-no end 1"),
        ("${A:-one} ${A:-no end $A", "1 ${A:-no end 1"),
        ("${A $A} ${} $ $1 }$A", "${A 1} ${} $ $1 }1"),
        ("${B:-$A}", "$A"),
    ],
)
def test_variables(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    "text", ["${A:-" * 20_000, "${A" * 30_000, "${A:-" * 20_000 + "}", "$" * 100_000, "${" * 60_000]
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    """Quadratic time would be seconds each; a hundred of each would pass the test's time limit."""
    for _ in range(100):
        expand(text, {"A": ""})


def test_texts_do_not_grow_without_end() -> None:
    with pytest.raises(TooLong, match="bytes"):
        expand("x" * (MAX_VALUE_BYTES + 1), {})
    with pytest.raises(TooLong, match="replaced"):
        expand("$A" * 60_000, {"A": "x" * 100_000})
    context, doubling = Context(env={"A": "x" * 1000}), BuildStep("ENV", ("A", "$A$A"))
    for _ in range(7):
        context = after(doubling, context)
    with pytest.raises(TooLong, match="replaced"):
        after(doubling, context)


def test_all_variables_together_are_limited() -> None:
    names = [f"V{number}" for number in range(400)]
    step = BuildStep("ENV", tuple(part for name in names for part in (name, "$LONG")))
    with pytest.raises(TooLong, match="together"):
        after(step, Context(env={"LONG": "x" * 100_000}))
    assert len(after(BuildStep("ENV", ("A", "1", "B", "$A")), Context()).env) == 2
    assert MAX_ENVIRONMENT_BYTES > MAX_VALUE_BYTES
