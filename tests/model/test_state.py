"""The model itself: what it must call a contradiction, and what it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.model.state import _DONE, GRACE, LOST, Nature, State, Step, resolve, with_timeouts

GVISOR, CRUN = Nature("gvisor"), Nature("crun")
RUNNING = State("running", "disk", "memory", least=1000, most=1001)
PAUSED = replace(RUNNING, phase="paused")


def step(verb: Any, status: int, at: float = 500, *, alone: bool = True, **found: Any) -> Step:
    given = {"timeout": 100, "memory": True, "value": "new", "duration": 100}
    return Step(verb, status, at, at + 1, given, found, alone)


def reading(disk: str, memory: str) -> Step:
    return step("read", 200, disk=disk, memory=memory)


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        (RUNNING, step("get", 404)),
        (RUNNING, step("get", 200, state="paused", end_at=1000.5)),
        (RUNNING, step("get", 200, state="running", end_at=999)),
        (RUNNING, step("get", 200, 1002 + GRACE, state="running", end_at=1000.5)),
        (RUNNING, reading("lost", "memory")),
        (RUNNING, reading("disk", "")),
        (RUNNING, step("kill", 404)),
        (RUNNING, step("kill", LOST)),
        (RUNNING, step("connect", 201)),
        (RUNNING, step("write", 502)),
        (RUNNING, step("pause", 409)),
        (PAUSED, step("connect", 200)),
        (PAUSED, step("fork", 201)),
        (PAUSED, reading("disk", "memory")),
        (replace(RUNNING, phase="ended"), step("get", 200, state="running", end_at=1000.5)),
        (replace(RUNNING, phase="ended"), step("connect", 201)),
    ],
)
def test_contradictions(state: State, wrong: Step) -> None:
    assert resolve(frozenset({state}), [wrong], GVISOR)[0] == frozenset()


def test_a_lost_answer_leaves_both() -> None:
    states, _ = resolve(frozenset({RUNNING}), [step("kill", LOST, alone=False)], GVISOR)
    assert {state.phase for state in states} == {"running", "ended"}
    states, _ = resolve(states, [step("get", 404)], GVISOR)
    assert {state.phase for state in states} == {"ended"}


@pytest.mark.parametrize("verb", sorted(_DONE.keys() | {"read", "write", "begin"}))
def test_any_answer_may_be_lost(verb: str) -> None:
    for state in (RUNNING, PAUSED, replace(RUNNING, phase="ended")):
        assert state in resolve(frozenset({state}), [step(verb, LOST, alone=False)], GVISOR)[0]


def test_a_command_whose_answer_was_lost_may_come_late() -> None:
    states, _ = resolve(frozenset({RUNNING}), [step("write", LOST, alone=False)], GVISOR)
    for disk in ("disk", "new"):
        states, _ = resolve(states, [reading(disk, "memory")], GVISOR)
        assert states
    assert resolve(states, [reading("disk", "memory")], GVISOR)[0] == frozenset(), "and never goes again"


@pytest.mark.parametrize(("nature", "memory"), [(GVISOR, "memory"), (CRUN, "")])
def test_what_a_pause_keeps(nature: Nature, memory: str) -> None:
    states, _ = resolve(frozenset({RUNNING}), [step("pause", 204)], nature)
    states, _ = resolve(states, [step("connect", 201)], nature)
    assert [state.memory for state in states] == [memory]
    assert [state.least for state in states] == [600]


def test_operations_at_once_may_have_been_done_in_any_order() -> None:
    states, met = resolve(
        frozenset({RUNNING}), [step("kill", 204, alone=False), step("fork", 201, alone=False)], GVISOR
    )
    assert {state.phase for state in states} == {"ended"}
    assert {state.phase for state in met[1]} == {"running"}
    both = [step("pause", 204, alone=False), step("pause", 204, alone=False)]
    assert resolve(frozenset({RUNNING}), both, GVISOR)[0] == frozenset()


def test_deadlines() -> None:
    assert with_timeouts({RUNNING}, 999, GVISOR) == {RUNNING}
    assert {state.phase for state in with_timeouts({RUNNING}, 1000, GVISOR)} == {"running", "ended"}
    assert {state.phase for state in with_timeouts({RUNNING}, 1000, replace(GVISOR, pauses=True))} == {
        "running",
        "paused",
    }
