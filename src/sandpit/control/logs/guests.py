"""What happens inside sandboxes, from the node into the store.

Events come by the handful and are written by the hundred, in one transaction for all sandboxes. Whoever reads logs has what has come
written first, so that nothing older than what he sees appears later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.errors import NodeError
from sandpit.store.models import Sandbox, SandboxLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from sandpit.contract.node import GuestEvent, Node
    from sandpit.control.settings import Retention
    from sandpit.store.database import Database

log = logging.getLogger(__name__)
OWN_LOGGER = "sandbox"
"""Lines that the control plane writes itself (`records.write_log`)."""
GATHER_SECONDS = 0.3
MAX_WAITING = 20_000
"""Events that may wait for the store, of all sandboxes."""
TEAM_SHARE = 0.25
"""What part of them may be one team's: the others' events must find room."""
MAX_AT_ONCE = 2000
"""Events of one transaction: other writers wait for it."""
TRIM_SECONDS = 60.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class GuestLogs:
    """Takes the node's events and writes them down. `run` is its background work."""

    def __init__(self, database: Database, node: Node, retention: Retention) -> None:
        self._database = database
        self._node = node
        self._retention = retention
        self.team_of: Callable[[str], str | None] = lambda _sandbox_id: None
        """Whose a sandbox is; one that is nobody's counts for itself."""
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        """Each with the team that it counts for."""
        self._of_team: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._came = asyncio.Event()
        self._lock = asyncio.Lock()
        """Held while events are on their way to the store: order is kept, and a reader waits for them."""
        self._grown: set[str] = set()
        """Sandboxes whose logs may have become too long."""

    async def follow(self, sandbox_id: str, *, is_new: bool) -> None:
        """Have the node tell what happens in a sandbox that runs, from where its log ends."""
        try:
            self._node.follow(sandbox_id, 0 if is_new else await self._position(sandbox_id))
        except (NodeError, SQLAlchemyError) as error:
            log.debug("sandbox %s is not followed: %s", sandbox_id, error)

    def take(self, sandbox_id: str, events: Sequence[GuestEvent]) -> None:
        """Remember what happened; too much is dropped, and counted."""
        team = self.team_of(sandbox_id) or sandbox_id
        room = max(min(MAX_WAITING - len(self._waiting), int(MAX_WAITING * TEAM_SHARE) - self._of_team[team]), 0)
        if len(events) > room:
            self._dropped[team] += len(events) - room
        self._waiting += [(team, _row(sandbox_id, event)) for event in events[:room]]
        self._of_team[team] += min(len(events), room)
        self._grown.add(sandbox_id)
        self._came.set()

    async def run(self) -> NoReturn:
        """Write what comes, and trim."""
        loop = asyncio.get_running_loop()
        trimmed = loop.time()
        while True:
            await self._came.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._came.clear()
            await self.flush()
            if loop.time() - trimmed > TRIM_SECONDS:
                trimmed = loop.time()
                await self.trim()

    async def flush(self) -> None:
        """Write what has come; returns when it can be read. What the store refuses is lost."""
        for _ in range(MAX_WAITING // MAX_AT_ONCE):
            if not self._waiting and not self._lock.locked():
                return
            async with self._lock:
                taken, self._waiting = self._waiting[:MAX_AT_ONCE], self._waiting[MAX_AT_ONCE:]
                self._of_team -= Counter(team for team, _ in taken)  # keeps what is left only
                rows = [row for _, row in taken]
                for team, number in self._dropped.items():
                    log.warning("%d events of sandboxes of team %s were dropped: the store is behind", number, team)
                self._dropped.clear()
                if not rows:
                    continue
                try:
                    await self._database.run(partial(_write, rows=rows))
                except SQLAlchemyError:
                    log.exception("%d events of sandboxes were lost: the store refused them", len(rows))

    async def trim(self) -> None:
        """Delete the oldest lines of logs that are longer than what is kept."""
        grown, self._grown = self._grown, set()
        keep, total = self._retention.logs_per_sandbox, self._retention.logs_total
        try:
            for sandbox_id in grown:
                await self._database.run(partial(_trim, sandbox_id=sandbox_id, keep=keep))
            for team_id in await self._database.run(partial(_teams, sandbox_ids=grown)):
                await self._database.run(partial(_trim_team, team_id=team_id, keep=self._retention.logs_per_team))
            await self._database.run(partial(_trim_all, total=total))
        except SQLAlchemyError:
            self._grown |= grown
            log.exception("logs could not be trimmed: trying again in a minute")

    async def _position(self, sandbox_id: str) -> int:
        """Where a sandbox's log ends, as its agent counts (`GuestEvent.position`)."""
        await self.flush()
        newest = select(func.max(SandboxLog.timestamp)).where(
            SandboxLog.sandbox_id == sandbox_id, SandboxLog.logger != OWN_LOGGER
        )
        found = await self._database.run(lambda session: session.scalar(newest))
        return 0 if found is None else (found - _EPOCH) // timedelta(microseconds=1)


def _row(sandbox_id: str, event: GuestEvent) -> dict[str, Any]:
    return {
        "sandbox_id": sandbox_id,
        "timestamp": _EPOCH + timedelta(microseconds=event.position),
        "level": event.level,
        "logger": event.logger,
        "message": event.message,
        "fields": dict(event.fields),
    }


def _write(session: Session, rows: list[dict[str, Any]]) -> None:
    """Rows of sandboxes whose records have been thrown away meanwhile go with them."""
    ids = {row["sandbox_id"] for row in rows}
    known = set(session.scalars(select(Sandbox.id).where(Sandbox.id.in_(ids))))
    kept = [row for row in rows if row["sandbox_id"] in known]
    if kept:
        session.execute(insert(SandboxLog), kept)


def _trim(session: Session, sandbox_id: str, keep: int) -> None:
    lines = select(SandboxLog.id).where(SandboxLog.sandbox_id == sandbox_id)
    newest_to_go = lines.order_by(SandboxLog.timestamp.desc(), SandboxLog.id.desc()).offset(keep).limit(1)
    last = session.scalar(newest_to_go)
    if last is not None:
        # Ids follow time but for lines of two writers within a moment: a line more or less is all the same.
        session.execute(delete(SandboxLog).where(SandboxLog.sandbox_id == sandbox_id, SandboxLog.id <= last))


def _teams(session: Session, sandbox_ids: set[str]) -> set[str]:
    """Whose these sandboxes are, those that have ended too."""
    found: set[str] = set()
    for some in _batched(sandbox_ids):
        found |= set(session.scalars(select(Sandbox.team_id).where(Sandbox.id.in_(some)).distinct()))
    return found


def _batched(ids: set[str], size: int = 500) -> Iterator[list[str]]:
    """Some at a time: a statement has a limit on its parameters."""
    rest = sorted(ids)
    return (rest[start : start + size] for start in range(0, len(rest), size))


def _trim_team(session: Session, team_id: str, keep: int) -> None:
    """Counting goes by an index; the way to the line is taken only by a team that has too many."""
    sandboxes = select(Sandbox.id).where(Sandbox.team_id == team_id)
    lines = SandboxLog.sandbox_id.in_(sandboxes)
    if (session.scalar(select(func.count()).select_from(SandboxLog).where(lines)) or 0) <= keep:
        return
    last = session.scalar(select(SandboxLog.id).where(lines).order_by(SandboxLog.id.desc()).offset(keep).limit(1))
    if last is not None:
        session.execute(delete(SandboxLog).where(lines, SandboxLog.id <= last))


def _trim_all(session: Session, total: int) -> None:
    """By id, which grows: counting a million rows would hold up everybody."""
    newest = session.scalar(select(func.max(SandboxLog.id)))
    if newest is not None and newest > total:
        session.execute(delete(SandboxLog).where(SandboxLog.id <= newest - total))
