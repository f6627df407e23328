"""Reading sandboxes: one, lists, logs, metrics. Nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, exists, func, or_, select, tuple_

from sandpit.control.cursors import decode_cursor, encode_cursor
from sandpit.control.errors import InvalidRequestError, NotFoundError
from sandpit.control.limits import MAX_PAGE
from sandpit.store.models import MetricSample, Sandbox, SandboxLog, SandboxMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select

    from sandpit.control.accounts.teams import Identity
    from sandpit.control.logs.guests import GuestLogs
    from sandpit.store.database import Database

MAX_LOGS = 1000
MAX_METRICS = 10_000
LEVELS = ("debug", "info", "warn", "error")
STATES = ("running", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFilter:
    """Which sandboxes a list shows (current-protocol 3.5)."""

    states: tuple[str, ...] = STATES
    metadata: Mapping[str, str] = field(default_factory=dict)
    ascending: bool = False
    started_after: datetime | None = None
    template_id: str | None = None
    limit: int = MAX_PAGE
    next_token: str | None = None


@dataclass(frozen=True, slots=True)
class SandboxPage:
    """One page of a list; `next_token` is None on the last one."""

    items: Sequence[Sandbox]
    next_token: str | None
    total_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which log lines to show; `start` and `end` are inclusive and exclusive."""

    start: datetime | None = None
    end: datetime | None = None
    limit: int = MAX_LOGS
    newest_first: bool = False
    level: str = "debug"
    search: str | None = None
    loggers: tuple[str, ...] = ()
    """Only these, if any; the beginning of a name is enough."""


class SandboxQueries:
    """What a team may know about its sandboxes."""

    def __init__(self, database: Database, guest_logs: GuestLogs) -> None:
        self._database = database
        self._guest_logs = guest_logs

    async def get(self, identity: Identity, sandbox_id: str) -> Sandbox:
        """A running or paused sandbox. Raises: NotFoundError."""
        sandbox = await self._database.run(lambda session: session.get(Sandbox, sandbox_id))
        if sandbox is None or sandbox.team_id != identity.team_id or sandbox.state == "ended":
            raise NotFoundError(f"sandbox '{sandbox_id}' not found")
        return sandbox

    async def page(self, identity: Identity, wanted: SandboxFilter) -> SandboxPage:
        """A page by start time. Raises: InvalidRequestError (limit, token)."""
        if not 1 <= wanted.limit <= MAX_PAGE:
            raise InvalidRequestError(f"limit must be from 1 to {MAX_PAGE}, got {wanted.limit}")
        matching = _conditions(identity, wanted)
        query = select(Sandbox).where(*matching, Sandbox.state.in_(_stored(wanted.states)))
        if wanted.next_token:
            query = query.where(_after(wanted.next_token, wanted.ascending))
        running = select(func.count()).select_from(Sandbox).where(*matching, Sandbox.state == "running")
        rows_query = _ordered(query, wanted.ascending).limit(wanted.limit + 1)
        rows, total = await self._database.run(
            lambda session: (list(session.scalars(rows_query)), session.scalar(running) or 0)
        )
        items = rows[: wanted.limit]
        more = len(rows) > wanted.limit
        return SandboxPage(
            items, encode_cursor(items[-1].started_at, items[-1].id, wanted.ascending) if more else None, total
        )

    async def running(self, identity: Identity, metadata: Mapping[str, str]) -> list[Sandbox]:
        """All running sandboxes, newest first (the v1 list, which has no pages)."""
        wanted = SandboxFilter(states=("running",), metadata=metadata)
        query = select(Sandbox).where(*_conditions(identity, wanted), Sandbox.state == "running")
        async with self._database.read() as session:
            return list(await session.scalars(_ordered(query, ascending=False)))

    async def logs(self, identity: Identity, sandbox_id: str, wanted: LogFilter) -> list[SandboxLog]:
        """Log lines of a sandbox, which may have ended; none of an unknown one (legacy-protocol 2.7)."""
        await self._guest_logs.flush()
        owned = exists().where(Sandbox.id == SandboxLog.sandbox_id, Sandbox.team_id == identity.team_id)
        query = select(SandboxLog).where(SandboxLog.sandbox_id == sandbox_id, owned)
        query = query.where(SandboxLog.level.in_(LEVELS[LEVELS.index(wanted.level) :]))
        if wanted.start is not None:
            query = query.where(SandboxLog.timestamp >= wanted.start)
        if wanted.end is not None:
            query = query.where(SandboxLog.timestamp < wanted.end)
        if wanted.loggers:
            query = query.where(or_(*(SandboxLog.logger.startswith(name, autoescape=True) for name in wanted.loggers)))
        if wanted.search:
            query = query.where(SandboxLog.message.contains(wanted.search, autoescape=True))
        if wanted.newest_first:
            query = query.order_by(SandboxLog.timestamp.desc(), SandboxLog.id.desc())
        else:
            query = query.order_by(SandboxLog.timestamp, SandboxLog.id)
        async with self._database.read() as session:
            return list(await session.scalars(query.limit(wanted.limit)))

    async def metrics(
        self, identity: Identity, sandbox_id: str, start: datetime | None, end: datetime | None
    ) -> list[MetricSample]:
        """Samples of a sandbox that has not ended, oldest first. Raises: NotFoundError."""
        await self.get(identity, sandbox_id)
        query = select(MetricSample).where(MetricSample.sandbox_id == sandbox_id)
        if start is not None:
            query = query.where(MetricSample.timestamp >= start)
        if end is not None:
            query = query.where(MetricSample.timestamp <= end)
        newest = query.order_by(MetricSample.timestamp.desc()).limit(MAX_METRICS)
        async with self._database.read() as session:
            return list(await session.scalars(newest))[::-1]

    async def latest_metrics(self, identity: Identity, sandbox_ids: Sequence[str]) -> dict[str, MetricSample]:
        """The newest sample of each of the team's running sandboxes among these. Raises: InvalidRequestError."""
        if len(sandbox_ids) > MAX_PAGE:
            raise InvalidRequestError(f"sandbox_ids: at most {MAX_PAGE} ids, got {len(sandbox_ids)}")
        newest = (
            select(MetricSample.sandbox_id, func.max(MetricSample.timestamp).label("newest"))
            .join(Sandbox, Sandbox.id == MetricSample.sandbox_id)
            .where(
                MetricSample.sandbox_id.in_(sandbox_ids),
                Sandbox.team_id == identity.team_id,
                Sandbox.state == "running",
            )
            .group_by(MetricSample.sandbox_id)
            .subquery()
        )
        same = and_(MetricSample.sandbox_id == newest.c.sandbox_id, MetricSample.timestamp == newest.c.newest)
        async with self._database.read() as session:
            rows = await session.scalars(select(MetricSample).join(newest, same))
            return {row.sandbox_id: row for row in rows}


def _stored(states: Sequence[str]) -> list[str]:
    """A sandbox that is being paused is shown as paused (current-protocol 3.4)."""
    return [*states, "pausing"] if "paused" in states else list(states)


def _conditions(identity: Identity, wanted: SandboxFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Sandbox.team_id == identity.team_id]
    if wanted.started_after is not None:
        conditions.append(Sandbox.started_at >= wanted.started_after)
    if wanted.template_id is not None:
        conditions.append(Sandbox.template_id == wanted.template_id)
    if wanted.metadata:
        # One subquery whatever the number of pairs: a statement that grows with it takes seconds to compile.
        pair = tuple_(SandboxMetadata.key, SandboxMetadata.value)
        matching = select(func.count()).where(
            SandboxMetadata.sandbox_id == Sandbox.id, pair.in_(list(wanted.metadata.items()))
        )
        conditions.append(matching.scalar_subquery() == len(wanted.metadata))
    return conditions


def _ordered(query: Select[Any], ascending: bool) -> Select[Any]:
    if ascending:
        return query.order_by(Sandbox.started_at, Sandbox.id)
    return query.order_by(Sandbox.started_at.desc(), Sandbox.id.desc())


def _after(token: str, ascending: bool) -> ColumnElement[bool]:
    started, sandbox_id = decode_cursor(token, ascending)
    if ascending:
        return or_(Sandbox.started_at > started, and_(Sandbox.started_at == started, Sandbox.id > sandbox_id))
    return or_(Sandbox.started_at < started, and_(Sandbox.started_at == started, Sandbox.id < sandbox_id))
