"""Random operations against a real server, which is killed now and then, and the model that says what may come of them."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.abuse.test_crashes import own_server, records, wait_for
from tests.model import client as requests
from tests.model.client import Answer, Client
from tests.model.things import Box, Operation, Snap
from tests.model.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMIT = 5
MOST_SNAPSHOTS = 4
AT_ONCE = 3
JOURNAL = 80
"""Operations that are shown when something is wrong."""
_WEIGHTS = {
    "create": 14, "kill": 8, "pause": 9, "connect": 12, "timeout": 6, "refresh": 3, "get": 5, "fork": 5, "snapshot": 3,
    "write": 12, "begin": 4, "read": 14, "delete": 3,
}  # fmt: skip
_CRASH_EVERY = 25
"""The server dies in one of so many batches."""
_STOPS = 0.01
"""Share of batches after which it is stopped, and started again."""


@dataclass
class Run:
    """One server, and as many operations as are wanted."""

    runtime: str
    seeds: Sequence[int]
    """Of the dice, one after the other; each has an equal part of the operations."""
    say: Callable[[str], None] = lambda _: None
    done: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    crashes: int = 0

    def __post_init__(self) -> None:
        self._world = World(self.runtime, LIMIT)
        self._journal: deque[str] = deque(maxlen=JOURNAL)
        self._number = 0
        self._batches = 0
        self._live = own_server(
            SANDPIT_RUNTIME=self.runtime, SANDPIT_POOL__SIZE="1", SANDPIT_POOL__MAX_SIZE="1",
            SANDPIT_LIMITS__MAX_SANDBOXES=str(LIMIT),
        )  # fmt: skip

    def run(self, operations: int, seconds: float = float("inf")) -> None:
        """Do at least as many, or as many as there is time for. Raises: AssertionError with what was done last."""
        self._live.start()
        try:
            self._clients = [Client(self._live, self._live.key), Client(self._live, self._live.another_team())]
            try:
                for number, seed in enumerate(self.seeds, 1):
                    self._dice = random.Random(seed)
                    self._work(operations * number // len(self.seeds), time.monotonic() + seconds / len(self.seeds))
                    self._batch(crash=True)
                self._leave()
            finally:
                for client in self._clients:
                    client.close()
        except AssertionError as error:
            raise AssertionError(self._story(str(error))) from error
        finally:
            if self._live.process.poll() is not None:  # it has failed while no server ran: sandboxes go on
                self._live.start()
            self._live.stop()
            self._live.remove()

    def _story(self, wrong: str) -> str:
        """What was done, what is wrong with it, and what the server had to say."""
        log = [line for line in self._live.log.read_text(errors="replace").splitlines() if " DEBUG " not in line]
        title = f"{self.runtime}, seeds {self.seeds}, after {self._number} operations:"
        return "\n".join([title, *self._journal, "", wrong, "", *log[-40:]])

    def _work(self, operations: int, deadline: float) -> None:
        told = time.monotonic()
        while self._number < operations and time.monotonic() < deadline:
            self._batches += 1
            self._batch(crash=self._batches % _CRASH_EVERY == 0)
            if time.monotonic() > told + 10:
                told = time.monotonic()
                self.say(self.summary())

    def summary(self) -> str:
        """How far it is."""
        done = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        return (
            f"{self.runtime}: {self._number} operations ({done}), {self.crashes} crashes, {self._world.busy} times busy"
        )

    def _batch(self, *, crash: bool) -> None:
        batch = [self._choose() for _ in range(AT_ONCE if crash else self._dice.choice((1, 1, 2, AT_ONCE)))]
        moment = self._dice.uniform(0, 1.0) ** 2  # most operations are short
        with ThreadPoolExecutor(AT_ONCE) as pool:
            working = [pool.submit(self._do, one) for one in batch]
            if crash:
                time.sleep(moment)
                self._live.kill()
            for one, work in zip(batch, working, strict=True):
                one.answer = work.result()
        self._note(batch)
        if crash:
            self._journal.append("-- killed")
        self._world.settle(batch, crashed=crash)
        self._world.check_limits(time.time())
        if crash:
            self.crashes += 1
            self._live.start()
        elif self._dice.random() < _STOPS:
            self._live.process.terminate()
            self._live.ended()
            self._live.start()
            self._journal.append("-- restarted")
        if crash or self._dice.random() < 0.1:
            self._check_lists(after_crash=crash)
        if crash:
            self._check_data()

    def _note(self, batch: list[Operation]) -> None:
        for one in batch:
            self._journal.append(f"{'  ' if len(batch) > 1 else ''}{one}")
            self.done[one.verb] += 1
            if 200 <= one.got.status < 300:
                self.seconds.setdefault(one.verb, []).append(one.got.answered - one.got.sent)

    def _check_lists(self, *, after_crash: bool = False) -> None:
        for team, client in enumerate(self._clients):
            self._world.check_list(team, client, after_crash=after_crash)
            self._world.check_snapshots(team, client, after_crash=after_crash)

    def _check_data(self) -> None:
        """What is in every sandbox that runs."""
        for box in self._world.boxes:
            if box.must("running"):
                self._alone(self._operation("read", box=box))

    def _alone(self, one: Operation) -> Operation:
        one.answer = self._do(one)
        self._note([one])
        self._world.settle([one], crashed=False)
        return one

    # What to do next

    def _choose(self) -> Operation:
        verb: Any = self._dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if verb == "create":
            return self._new_create()
        if verb == "delete":
            snap = self._a_snap()
            return self._operation("delete", snap=snap) if snap is not None else self._new_create()
        box = self._a_box()
        if box is None:
            return self._new_create()
        if verb == "snapshot" and sum(True in snap.could_be for snap in self._world.snaps) >= MOST_SNAPSHOTS:
            snap = self._a_snap()
            assert snap is not None
            return self._operation("delete", snap=snap)
        return self._operation(verb, box=box)

    def _a_box(self) -> Box | None:
        """Mostly one that is there still: of the last ones, so that there are not ever more of them."""
        boxes = self._world.boxes
        there = [box for box in boxes if not box.must("ended")]
        if boxes and (not there or self._dice.random() < 0.03):
            return self._dice.choice(boxes[-30:])
        return self._dice.choice(there) if there else None

    def _a_snap(self) -> Snap | None:
        there = [snap for snap in self._world.snaps if True in snap.could_be]
        return self._dice.choice(there) if there else None

    def _new_create(self) -> Operation:
        snap = self._a_snap() if self._dice.random() < 0.3 else None
        return self._operation("create", snap=snap)

    def _operation(self, verb: Any, box: Box | None = None, snap: Snap | None = None) -> Operation:
        self._number += 1
        owner = box or snap
        team = owner.team if owner is not None else int(self._dice.random() < 0.25)
        return Operation(verb, self._number, team, self._arguments(verb), box, snap)

    def _timeout(self) -> int:
        return self._dice.choice((1, 2, 3, 8, 15)) if self._dice.random() < 0.15 else self._dice.randint(300, 3600)

    def _arguments(self, verb: str) -> dict[str, Any]:
        dice, number = self._dice, self._number
        match verb:
            case "create":
                pauses = dice.random() < 0.5
                keeps = not pauses or dice.random() < 0.7
                return {
                    "timeout": self._timeout(), "autoPause": pauses, "autoPauseMemory": keeps,
                    "wakes": pauses and keeps and dice.random() < 0.5,
                    "metadata": {"number": str(number)}, "given": f"given-{number}",
                }  # fmt: skip
            case "pause":
                return {"memory": dice.random() < 0.8}
            case "connect":
                return {"timeout": self._timeout()}
            case "timeout":
                return {"timeout": 0 if dice.random() < 0.1 else self._timeout()}
            case "refresh":
                return {"duration": dice.choice((0, 10, 100, 1000))}
            case "fork":
                return {"count": dice.choice((1, 1, 2)), "timeout": self._timeout()}
            case "snapshot":
                return {"name": f"s{number}x", "memory": dice.random() < 0.8}
            case "write" | "begin":
                return {"value": f"v{number}"}
        return {}

    def _do(self, one: Operation) -> Answer:
        client, given = self._clients[one.team], one.arguments
        if one.verb == "create":
            body = {
                "templateID": one.snap.id if one.snap is not None else "base", "timeout": given["timeout"],
                "metadata": given["metadata"], "envVars": {"GIVEN": given["given"]}, "autoPause": given["autoPause"],
                "autoResume": {"enabled": given["wakes"]},
            }  # fmt: skip
            if given["autoPause"]:
                body["autoPauseMemory"] = given["autoPauseMemory"]
            return client.call("POST", "/v2/sandboxes", body)
        if one.verb == "delete":
            assert one.snap is not None
            return client.call("DELETE", f"/templates/{quote(one.snap.id, safe='')}")
        box = one.box
        assert box is not None
        path = f"/sandboxes/{box.id}"
        match one.verb:
            case "write":
                return client.run(box.id, box.token, requests.WRITE.format(given["value"]))
            case "begin":
                return client.run(box.id, box.token, requests.BEGIN.format(given["value"]))
            case "read":
                return client.run(box.id, box.token, requests.READ)
            case "kill":
                return client.call("DELETE", path)
            case "get":
                return client.call("GET", path)
        paths = {"refresh": "refreshes", "snapshot": "snapshots"}
        body = {name: value for name, value in given.items() if name != "met"}
        return client.call("POST", f"{path}/{paths.get(one.verb, one.verb)}", body)

    # The end

    def _leave(self) -> None:
        """Everything is as the model says, and goes; nothing stays behind."""
        self._check_lists()
        self._check_data()
        for box in self._world.boxes:
            if not box.must("ended"):
                self._alone(self._operation("kill", box=box))
        for snap in self._world.snaps:
            if True in snap.could_be:
                self._alone(self._operation("delete", snap=snap))
        self._check_lists()
        left = self._live.data_dir / "sandbox-snapshots"
        wait_for(lambda: records(self._live) == {} and not list(left.glob("*")))
