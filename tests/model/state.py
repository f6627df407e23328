"""What is known of one sandbox: every state that agrees with all that callers were told.

An operation whose answer was lost may have happened or not, and a deadline may have passed or not, so what is known is a set of states.
`after` is the model: the states that a state may become by an operation that was answered in one way; none says that the answer
contradicts the state.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LOST = 0
"""The status of an operation that was not answered."""
CLOCKS = 0.05
"""Seconds by which two clocks of one machine may disagree."""
GRACE = 45.0
"""Seconds after a deadline in which a loaded machine must have ended a sandbox; one that cannot be paused is tried again after 30."""
WAKE_SECONDS = 300
"""A sandbox that a request has resumed lives as long, at least."""
LEAST_REFRESH = 15

Verb = Literal[
    "create", "kill", "pause", "connect", "timeout", "refresh", "get", "fork", "snapshot", "write", "begin", "read", "delete"
]  # fmt: skip
States = frozenset["State"]


@dataclass(frozen=True, slots=True)
class State:
    """A sandbox at one moment. Times are seconds since the epoch."""

    phase: Literal["running", "paused", "ended"]
    disk: str
    """What its file holds."""
    memory: str = ""
    """What its process holds; nothing without one."""
    whole: bool = True
    """Whether it was paused with its processes."""
    least: float = 0.0
    """Before this it may not end by its timeout."""
    most: float = 0.0
    """By this its timeout has come."""
    late_disk: frozenset[str] = frozenset()
    """What a command may still write whose answer was lost: it may be at work."""
    late_memory: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Nature:
    """What never changes about a sandbox."""

    runtime: str
    pauses: bool = False
    """At its timeout, instead of being killed."""
    keeps_memory: bool = True
    """At that pause."""
    wakes: bool = False
    timeout: int = 0

    def saves_memory(self, wanted: bool) -> bool:
        """Whether a snapshot has the processes: crun keeps files only."""
        return wanted and self.runtime == "gvisor"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation on a sandbox and what came of it."""

    verb: Verb
    status: int
    """HTTP status; `LOST` without an answer."""
    sent: float
    answered: float
    arguments: dict[str, Any]
    found: dict[str, Any]
    """What the answer said."""
    alone: bool = True
    """Nothing else was done with this sandbox at the time, and the server lived."""
    ending: bool = False
    """Something that ends it was asked for at the same time."""


def resolve(states: States, steps: Sequence[Step], nature: Nature) -> tuple[States, dict[int, States]]:
    """The states after steps that were done at once, in any order; and those in which each step may have found the sandbox.

    No states are left when no order explains all answers.
    """
    finally_: set[State] = set()
    seen: dict[int, set[State]] = {}
    for order in itertools.permutations(range(len(steps))):
        current, met = states, {}
        for number in order:
            step = steps[number]
            current = met[number] = with_timeouts(current, step.answered, nature)
            current = frozenset(new for state in current for new in after(state, step, nature))
        if current:
            finally_ |= current
            for number, found in met.items():
                seen.setdefault(number, set()).update(found)
    return frozenset(finally_), {number: frozenset(found) for number, found in seen.items()}


def with_timeouts(states: Iterable[State], now: float, nature: Nature) -> States:
    """The states, and what they have become if their deadline may have come by `now`."""
    found = set(states)
    for state in tuple(found):
        if state.phase == "running" and now >= state.least - CLOCKS:
            found.add(timed_out(state, nature))
    return frozenset(found)


def timed_out(state: State, nature: Nature) -> State:
    """At its deadline."""
    if nature.pauses:
        return replace(state, phase="paused", whole=nature.saves_memory(nature.keeps_memory))
    return replace(state, phase="ended")


def after(state: State, step: Step, nature: Nature) -> list[State]:
    """What a state may be after a step."""
    if step.verb in ("read", "write", "begin"):
        return _command(state, step, nature)
    done = _DONE[step.verb]
    if step.status == LOST:
        return [state, *done(state, step, nature)] if not step.alone else []
    if step.status in (
        429,
        503,
    ):  # a limit, a full machine: nothing has happened (whether that was right is asked elsewhere)
        return [state] if step.verb in ("pause", "connect", "fork", "snapshot") and state.phase != "ended" else []
    if step.status == 404:
        return [state] if state.phase == "ended" else []
    if step.status == 409:  # wrong for its state, or it is being killed just now
        wrong = state.phase == "paused" and step.verb not in ("kill", "connect")
        return [state] if step.ending or wrong else []
    return done(state, step, nature) if step.status < 300 else []


def _kill(state: State, step: Step, nature: Nature) -> list[State]:
    return [replace(state, phase="ended")] if state.phase != "ended" else []


def _pause(state: State, step: Step, nature: Nature) -> list[State]:
    if state.phase != "running":
        return []
    return [replace(state, phase="paused", whole=nature.saves_memory(step.arguments["memory"]))]


def _connect(state: State, step: Step, nature: Nature) -> list[State]:
    seconds = step.arguments["timeout"]
    if state.phase == "running" and step.status in (LOST, 200):
        return [_extended(state, step, seconds)]
    if state.phase == "paused" and step.status in (LOST, 201):
        return [_woken(state, step, seconds)]
    return []


def _timeout(state: State, step: Step, nature: Nature) -> list[State]:
    if state.phase != "running":
        return []
    if (seconds := step.arguments["timeout"]) == 0:
        return [timed_out(state, nature)]
    return [replace(state, least=step.sent + seconds, most=step.answered + seconds)]


def _refresh(state: State, step: Step, nature: Nature) -> list[State]:
    seconds = max(step.arguments["duration"], LEAST_REFRESH)
    return [_extended(state, step, seconds)] if state.phase == "running" else []


def _get(state: State, step: Step, nature: Nature) -> list[State]:
    """A sandbox that is being paused is shown as paused; should the server die then, it runs on."""
    if step.status == LOST:
        return [state]
    if state.phase == "ended":
        return [state] if step.ending else []
    shown = step.found["state"]
    if not step.alone:
        return [state]
    if shown == "paused":
        pausing = nature.pauses and step.answered >= state.least - CLOCKS
        return [state] if state.phase == "paused" or pausing else []
    overdue = step.sent > state.most + GRACE
    in_time = state.least - CLOCKS <= step.found["end_at"] <= state.most + CLOCKS
    return [state] if state.phase == "running" and not overdue and in_time else []


def _copied(state: State, step: Step, nature: Nature) -> list[State]:
    return [state] if state.phase == "running" else []


_DONE: dict[str, Callable[[State, Step, Nature], list[State]]] = {
    "kill": _kill, "pause": _pause, "connect": _connect, "timeout": _timeout, "refresh": _refresh, "get": _get,
    "fork": _copied, "snapshot": _copied,
}  # fmt: skip


def _command(state: State, step: Step, nature: Nature) -> list[State]:
    """A command in the sandbox, by its agent: a request can resume a sandbox that was paused with its processes."""
    if step.status in (LOST, 502) and not step.alone:  # cut, before it was started or after
        return [state, *(_late(one, step) for one in _reached(state, step, nature))]
    if step.status != 200:  # LOST too: nothing was there that could have cut it
        asleep = state.phase == "paused" and not (nature.wakes and state.whole)
        refused = nature.wakes and state.phase == "paused" and step.status in (429, 503)
        return [state] if step.status and (state.phase == "ended" or asleep or refused or step.ending) else []
    return [new for one in _reached(state, step, nature) for new in _ran(one, step)]


def _reached(state: State, step: Step, nature: Nature) -> list[State]:
    if state.phase == "running":
        return [state]
    if state.phase == "paused" and state.whole and nature.wakes:
        return [_woken(state, step, max(nature.timeout, WAKE_SECONDS))]
    return []


def _ran(state: State, step: Step) -> list[State]:
    if step.verb == "write":
        return [replace(state, disk=step.arguments["value"])]
    if step.verb == "begin":
        return [replace(state, memory=step.arguments["value"])]
    disk, memory = step.found["disk"], step.found["memory"]
    if disk not in {state.disk, *state.late_disk} or memory not in {state.memory, *state.late_memory}:
        return []
    late_disk = state.late_disk - {disk}
    return [replace(state, disk=disk, memory=memory, late_disk=late_disk, late_memory=state.late_memory - {memory})]


def _late(state: State, step: Step) -> State:
    if step.verb == "write":
        return replace(state, late_disk=state.late_disk | {step.arguments["value"]})
    if step.verb == "begin":
        return replace(state, late_memory=state.late_memory | {step.arguments["value"]})
    return state


def _extended(state: State, step: Step, seconds: float) -> State:
    return replace(state, least=max(state.least, step.sent + seconds), most=max(state.most, step.answered + seconds))


def _woken(state: State, step: Step, seconds: float) -> State:
    """It runs again, with the processes it was paused with."""
    running = replace(state, phase="running", least=step.sent + seconds, most=step.answered + seconds)
    return running if state.whole else replace(running, memory="", late_memory=frozenset())


def copied(state: State, sent: float, answered: float, seconds: float, *, memory: bool) -> State:
    """A sandbox that is made of a running one's state."""
    copy = replace(state, phase="running", least=sent + seconds, most=answered + seconds)
    return copy if memory else replace(copy, memory="", late_memory=frozenset())
