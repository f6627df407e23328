"""What happens in this sandbox: the events that `sandpit sandbox logs` shows. The node fetches them (architecture, Logs).

A bounded list. Adding to it never waits and never fails; without events nothing runs here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_EVENTS = 2000
"""Events that are kept; then the oldest go, and an event says how many of them were never fetched."""
MAX_VALUE = 1000
"""Characters of one value."""
BATCH_EVENTS = 200
GATHER_S = 0.1
"""How long the first event of an answer waits for others: a busy sandbox must not be asked a hundred times a second."""

Value = str | int | float | None


class Journal:
    """The events of one sandbox, oldest first."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._last = 0
        self._dropped = 0
        self._fetched = 0
        """The position up to which the node has had everything."""
        self._came = asyncio.Event()

    def add(self, logger: str, level: str, message: str, **fields: Value) -> None:
        """Append an event. Fields that are None are left out; long values are cut."""
        if len(self._events) >= MAX_EVENTS:
            self._dropped += self._events.popleft()["position"] > self._fetched
        shown = {name: _short(value) for name, value in fields.items() if value is not None}
        event = {"position": self._next(), "level": level, "logger": logger, "message": message, "fields": shown}
        self._events.append(event)
        self._came.set()

    def warn(self, message: str) -> None:
        """Something that the agent itself could not do."""
        self.add("agent", "warn", _short(message))

    def clear(self) -> None:
        """Another sandbox begins: it starts without the events of the snapshot it was made from."""
        self._events.clear()
        self._dropped = 0

    def after(self, position: int) -> list[dict[str, Any]]:
        """The next events. Those before stay while there is room: a server that has fetched them may die before they are in its store."""
        self._fetched = max(self._fetched, position)
        if self._dropped and self._events:
            lost, self._dropped = self._dropped, 0
            first = self._events[0]["position"] - 1
            message = f"{lost} events are missing: more came than were fetched"
            self._events.appendleft(
                {"position": first, "level": "warn", "logger": "agent", "message": message, "fields": {}}
            )
        newer = (event for event in self._events if event["position"] > position)
        return list(itertools.islice(newer, BATCH_EVENTS))

    async def newer(self, position: int) -> None:
        """Return when there are events after `position`."""
        while not self._events or self._events[-1]["position"] <= position:
            self._came.clear()
            await self._came.wait()

    def _next(self) -> int:
        """Microseconds since 1970, and larger than any before, even when the clock was set back."""
        self._last = max(time.time_ns() // 1000, self._last + 1)
        return self._last


async def read(request: Request) -> Response:
    """GET: JSON `{"events": [...]}` after the position `after`; with `wait=1` as soon as there are any."""
    journal: Journal = request.app.state.agent.journal
    position = int(request.query_params.get("after", "0"))
    if request.query_params.get("wait") == "1":
        await _wait(journal, position, request)
    body = json.dumps({"events": journal.after(position)}, separators=(",", ":"))
    return Response(body, media_type="application/json")


async def _wait(journal: Journal, position: int, request: Request) -> None:
    """Until there are events and had time to gather, or the node has gone."""
    gone = asyncio.ensure_future(_disconnected(request))
    came = asyncio.ensure_future(journal.newer(position))
    try:
        await asyncio.wait({gone, came}, return_when=asyncio.FIRST_COMPLETED)
        if came.done():
            await asyncio.wait({gone}, timeout=GATHER_S)
    finally:
        for task in (gone, came):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _short(value: Value) -> Any:
    if isinstance(value, str) and len(value) > MAX_VALUE:
        return value[:MAX_VALUE] + "..."
    return value
