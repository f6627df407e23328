"""Pause and resume one sandbox, over and over: in each life all of its state is changed, in the next one checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests import rounds
from tests.abuse.front import FrontBox

from benchmarks.rig import rig
from benchmarks.series import Clock, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "rounds"


class LostError(Exception):
    """Something was not as it had been."""


def measure(count: int) -> Iterator[Measurement]:
    """Raises: LostError, LeakError."""
    pauses, resumes = Clock(), Clock()
    with rig(pool=0) as made:
        box = FrontBox.create(made.live, timeout=3600)
        _expect(box, rounds.START, 0)
        path = f"/sandboxes/{box.id}"
        for number in range(1, count + 1):
            pauses.time(lambda: made.api.post(f"{path}/pause", json={}).raise_for_status())
            resumes.time(lambda: made.api.post(f"{path}/connect", json={"timeout": 3600}).raise_for_status())
            _expect(box, rounds.ASK.format(number), number)
        box.kill()
    yield Measurement("pause, round after round", "ms", pauses.values, note="all state was there")
    yield Measurement("resume, round after round", "ms", resumes.values)


def _expect(box: FrontBox, command: str, number: int) -> None:
    if (answer := box.sh(command)) != str(number):
        raise LostError(f"round {number}: {answer}")
