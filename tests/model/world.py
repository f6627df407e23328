"""All that callers were told: sandboxes, snapshots, limits, and what lists must show."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.model.client import Answer
from tests.model.state import GRACE, LOST, Nature, State, Step, copied, resolve, with_timeouts
from tests.model.things import Box, ContradictionError, Operation, Snap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.model.client import Client
    from tests.model.state import States


@dataclass
class World:
    """The model. Everything that is not alone in a batch may have been done in any order."""

    runtime: str
    limit: int
    """How many sandboxes a team may run."""
    boxes: list[Box] = field(default_factory=list)
    snaps: list[Snap] = field(default_factory=list)
    ghosts: list[Operation] = field(default_factory=list)
    """Creates, forks and snapshots without an answer: what they made may turn up."""
    busy: int = 0
    """Answers that the machine is too busy."""

    def settle(self, batch: Sequence[Operation], *, crashed: bool) -> None:
        """Learn from operations that were done at once. Raises: ContradictionError."""
        before = {team: self._could_run(team) for team in {one.team for one in batch}}
        touched = {one.box for one in batch if one.box is not None}
        for box in touched:
            self._settle_box(box, [one for one in batch if one.box is box], crashed=crashed)
        for one in batch:
            self._check_status(one)
            if one.verb == "create":
                self._settle_create(one, batch)
            elif one.verb == "delete":
                self._settle_delete(one, batch)
        for one in batch:
            if _refused(one):
                self._check_refusal(one, batch, before[one.team])

    def _check_status(self, one: Operation) -> None:
        got = one.got
        if got.status >= 500 and got.status not in (502, 503):
            raise ContradictionError(f"it failed: {one}")
        self.busy += got.status == 503

    # Sandboxes

    def _settle_box(self, box: Box, done: list[Operation], *, crashed: bool) -> None:
        box.let_time_pass(min(one.got.sent for one in done))
        last = max(one.got.answered for one in done)
        ending = with_timeouts(box.states, last, box.nature) != box.states or any(_ends(one) for one in done)
        alone = len(done) == 1 and not crashed and not ending
        steps = [
            Step(
                one.verb, one.got.status, one.got.sent, one.got.answered, one.arguments, _found(one, box), alone, ending
            )
            for one in done
        ]
        states, met = resolve(box.states, steps, box.nature)
        if not states:
            raise ContradictionError(
                "no order explains\n  " + "\n  ".join(map(str, done)) + "\nfrom\n  " + "\n  ".join(map(str, box.states))
            )
        box.states = states
        for number, one in enumerate(done):
            running = frozenset(state for state in met.get(number, frozenset()) if state.phase == "running")
            if one.verb == "fork":
                self._settle_fork(one, box, running)
            elif one.verb == "snapshot":
                self._settle_snapshot(one, running)

    def _settle_create(self, one: Operation, batch: Sequence[Operation]) -> None:
        got = one.got
        if got.status == 201:
            self.boxes.append(self._new_box(one, got.body["sandboxID"], got.body["envdAccessToken"]))
        elif got.status == LOST:
            self.ghosts.append(one)
        elif got.status == 404:
            deleted = any(other.verb == "delete" and other.snap is one.snap for other in batch)
            if one.snap is None or not (deleted or False in one.snap.could_be):
                raise ContradictionError(f"its template is there: {one}")
        elif got.status not in (429, 503):
            raise ContradictionError(f"a create that is as it should be: {one}")

    def _new_box(self, one: Operation, sandbox_id: str, token: str) -> Box:
        arguments, got = one.arguments, one.got
        nature = Nature(
            self.runtime, arguments["autoPause"], arguments["autoPauseMemory"], arguments["wakes"], arguments["timeout"]
        )
        times = (got.sent, got.answered, arguments["timeout"])
        if one.snap is None:
            states = frozenset({State("running", "", least=times[0] + times[2], most=times[1] + times[2])})
        else:
            states = frozenset(copied(state, *times, memory=one.snap.memory) for state in one.snap.states)
        return Box(sandbox_id, token, one.team, nature, arguments["metadata"], arguments["given"], states, one.snap)

    def _settle_fork(self, one: Operation, origin: Box, met: States) -> None:
        got = one.got
        one.arguments["met"] = met
        if got.status == LOST:
            self.ghosts.append(one)
        if got.status != 201:
            return
        if len(got.body) != one.arguments["count"]:
            raise ContradictionError(f"another number of copies: {one}")
        for result in got.body:
            if "error" in result:
                if result["error"]["code"] not in (429, 503):
                    raise ContradictionError(f"a copy failed: {one}")
                continue
            made = result["sandbox"]
            self.boxes.append(self._copy(one, origin, made["sandboxID"], made["envdAccessToken"]))

    def _copy(self, one: Operation, origin: Box, sandbox_id: str, token: str) -> Box:
        got, seconds = one.got, one.arguments["timeout"]
        whole = self.runtime == "gvisor"
        states = frozenset(
            copied(state, got.sent, got.answered, seconds, memory=whole) for state in one.arguments["met"]
        )
        nature = replace(origin.nature, timeout=seconds)
        return Box(sandbox_id, token, origin.team, nature, origin.metadata, origin.given, states, origin.made_of)

    # Snapshots

    def _settle_snapshot(self, one: Operation, met: States) -> None:
        one.arguments["met"] = met
        if one.got.status == LOST:
            self.ghosts.append(one)
        elif one.got.status == 201:
            self.snaps.append(self._new_snap(one, one.got.body["snapshotID"]))

    def _new_snap(self, one: Operation, snapshot_id: str) -> Snap:
        memory = one.arguments["memory"] and self.runtime == "gvisor"
        return Snap(snapshot_id, one.arguments["name"], one.team, memory, one.arguments["met"])

    def _settle_delete(self, one: Operation, batch: Sequence[Operation]) -> None:
        snap, status = one.snap, one.got.status
        assert snap is not None
        at_once = [other for other in batch if other is not one and other.snap is snap]
        again = any(other.verb == "delete" for other in at_once)
        users = [box for box in self.boxes if box.made_of is snap and not box.must("ended")]
        if status == 204:
            if any(not box.could("ended") for box in users) and not any(other.verb == "create" for other in at_once):
                raise ContradictionError(f"sandboxes are made of it: {one}")
            ok, snap.could_be = True in snap.could_be, frozenset({False})
        elif status == 404:
            ok, snap.could_be = False in snap.could_be or again, frozenset({False})
        elif status == 400:
            ghosts = any(ghost.snap is snap for ghost in self.ghosts)
            ok = (
                bool(users) or ghosts or any(other.verb == "create" for other in at_once) or self._just_ended(one, snap)
            )
        else:
            ok, snap.could_be = status == LOST, snap.could_be | {False}
        if not ok:
            raise ContradictionError(f"it cannot be: {one}")

    def _just_ended(self, one: Operation, snap: Snap) -> bool:
        return any(box.made_of is snap and any(s.most >= one.got.sent for s in box.states) for box in self.boxes)

    # Limits

    def _could_run(self, team: int) -> int:
        """How many sandboxes of a team may be running, at most."""
        own = sum(box.team == team and box.could("running") for box in self.boxes)
        return own + sum(int(ghost.arguments.get("count", 1)) for ghost in self.ghosts if ghost.team == team)

    def _check_refusal(self, one: Operation, batch: Iterable[Operation], before: int) -> None:
        """A limit must have been reached by what ran, counting all that was asked for at the same time."""
        more = sum(
            other.arguments.get("count", 1)
            for other in batch
            if other.team == one.team and other.verb in ("create", "fork", "connect", "read", "write", "begin")
        )
        if before + more <= self.limit:
            raise ContradictionError(f"at most {before} of {self.limit} run: {one}")

    def check_limits(self, now: float) -> None:
        """Raises: ContradictionError when more run for certain than may."""
        for box in self.boxes:
            box.let_time_pass(now)
        for team in {box.team for box in self.boxes}:
            running = [box.id for box in self.boxes if box.team == team and box.must("running")]
            if len(running) > self.limit:
                raise ContradictionError(f"{len(running)} sandboxes run, the limit is {self.limit}: {running}")

    # Lists, when nothing else is done

    def check_list(self, team: int, client: Client, *, after_crash: bool) -> None:
        """Sandboxes of a team, in pages. What nobody was told of is taken in. Raises: ContradictionError."""
        rows, answer = client.pages("/v2/sandboxes", limit=3)
        if answer.status != 200:
            raise ContradictionError(f"the list was answered {answer.status} {answer.body}")
        shown = {row["sandboxID"]: row for row in rows}
        if len(shown) != len(rows):
            raise ContradictionError(f"twice in one list: {[row['sandboxID'] for row in rows]}")
        for box in [box for box in self.boxes if box.team == team]:
            self._check_row(box, shown.pop(box.id, None), answer)
        for sandbox_id, row in shown.items():
            self._adopt(team, client, sandbox_id, row)
        if after_crash:
            self.ghosts = [ghost for ghost in self.ghosts if ghost.team != team or ghost.verb == "snapshot"]

    def _check_row(self, box: Box, row: dict[str, Any] | None, answer: Answer) -> None:
        found = Answer(404 if row is None else 200, row or {}, answer.sent, answer.answered)
        self._settle_box(box, [Operation("get", -1, box.team, {}, box, answer=found)], crashed=False)

    def _adopt(self, team: int, client: Client, sandbox_id: str, row: dict[str, Any]) -> None:
        """A sandbox of a create or fork that was not answered."""
        token = client.call("GET", f"/sandboxes/{sandbox_id}").body.get("envdAccessToken")
        for ghost in self.ghosts:
            if ghost.team != team or ghost.verb == "snapshot" or ghost.arguments.get("count") == 0:
                continue
            origin = ghost.box
            if row["metadata"] != (origin.metadata if origin is not None else ghost.arguments["metadata"]):
                continue
            ghost.arguments["count"] = ghost.arguments.get("count", 1) - 1
            box = (
                self._new_box(ghost, sandbox_id, token)
                if origin is None
                else self._copy(ghost, origin, sandbox_id, token)
            )
            # Nobody was told when it ends; its start may have been later than the answer that was lost.
            box.states = frozenset(replace(one, least=0.0, most=one.most + GRACE) for one in box.states)
            self.boxes.append(box)
            return
        raise ContradictionError(f"nobody asked for {row}")

    def check_snapshots(self, team: int, client: Client, *, after_crash: bool) -> None:
        """Raises: ContradictionError."""
        rows, answer = client.pages("/snapshots", limit=2)
        if answer.status != 200:
            raise ContradictionError(f"the snapshots were answered {answer.status} {answer.body}")
        shown = {row["snapshotID"] for row in rows}
        for snap in [snap for snap in self.snaps if snap.team == team]:
            there = snap.id in shown
            if there not in snap.could_be:
                raise ContradictionError(f"snapshot {snap.id} ({snap.name}) is {'there' if there else 'gone'}")
            snap.could_be = frozenset({there})
            shown.discard(snap.id)
        for snapshot_id in shown:
            ghost = next((g for g in self.ghosts if g.verb == "snapshot" and g.arguments["name"] in snapshot_id), None)
            if ghost is None or ghost.team != team:
                raise ContradictionError(f"nobody asked for snapshot {snapshot_id}")
            self.snaps.append(self._new_snap(ghost, snapshot_id))
            self.ghosts.remove(ghost)
        if after_crash:
            self.ghosts = [ghost for ghost in self.ghosts if ghost.team != team or ghost.verb != "snapshot"]


def _refused(one: Operation) -> bool:
    """By the limit on running sandboxes."""
    if one.verb == "fork" and one.got.status == 201:
        return any(result.get("error", {}).get("code") == 429 for result in one.got.body)
    return one.got.status == 429


def _ends(one: Operation) -> bool:
    return one.verb == "kill" or (one.verb == "timeout" and one.arguments["timeout"] == 0)


def _found(one: Operation, box: Box) -> dict[str, Any]:
    """What an answer says about a sandbox's state. Raises: ContradictionError when it says what never changes, wrongly."""
    got = one.got
    if one.verb == "get" and got.status == 200:
        body = got.body
        if body["sandboxID"] != box.id or body["metadata"] != box.metadata:
            raise ContradictionError(f"it is another one: {one}, not {box.metadata}")
        return {"state": body["state"], "end_at": datetime.fromisoformat(body["endAt"]).timestamp()}
    if one.verb == "read" and got.status == 200:
        host, given, disk, memory, _ = got.body["output"].split("|")
        if (host, given) != (box.id, box.given):
            raise ContradictionError(f"it is another one: {one}, not {box.given}")
        return {"disk": disk, "memory": memory}
    return {}
