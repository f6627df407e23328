"""What callers know: sandboxes and snapshots, and what they asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.model.state import GRACE, with_timeouts

if TYPE_CHECKING:
    from tests.model.client import Answer
    from tests.model.state import Nature, States, Verb


class ContradictionError(AssertionError):
    """What was answered cannot be, after all that was answered before."""


@dataclass(eq=False)
class Box:
    """A sandbox that its owner knows."""

    id: str
    token: str
    team: int
    nature: Nature
    metadata: dict[str, str]
    given: str
    """An environment variable of it."""
    states: States
    made_of: Snap | None = None

    def could(self, phase: str) -> bool:
        return any(state.phase == phase for state in self.states)

    def must(self, phase: str) -> bool:
        return all(state.phase == phase for state in self.states)

    def let_time_pass(self, now: float) -> None:
        """What has ended by itself may have; what was to end long ago has."""
        late = with_timeouts(self.states, now, self.nature)
        self.states = frozenset(one for one in late if one.phase != "running" or now <= one.most + GRACE)


@dataclass(eq=False)
class Snap:
    """A snapshot under a name of its own."""

    id: str
    name: str
    team: int
    memory: bool
    states: States
    """Of the sandbox, when it was taken."""
    could_be: frozenset[bool] = frozenset({True})
    """Whether it may be there, and whether it may not."""


@dataclass(eq=False)
class Operation:
    """What is asked for, and what came of it."""

    verb: Verb
    number: int
    team: int
    arguments: dict[str, Any]
    box: Box | None = None
    snap: Snap | None = None
    answer: Answer | None = None

    @property
    def got(self) -> Answer:
        assert self.answer is not None
        return self.answer

    def __str__(self) -> str:
        what = self.box.id if self.box is not None else self.snap.name if self.snap is not None else ""
        came = ""
        if (got := self.answer) is not None:
            came = f" -> {got.status or 'lost'} after {got.answered - got.sent:.2f} s at {got.answered:.2f} {got.body}"
        return f"{self.number} {self.verb} {what} {self.arguments}{came}"[:600]
