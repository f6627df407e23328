"""What runs all the time: sampling metrics, and throwing away old records."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import delete, insert
from sqlalchemy.exc import SQLAlchemyError

from sandpit.contract.errors import NodeError
from sandpit.control.idempotency import KEPT_SECONDS
from sandpit.control.times import from_unix
from sandpit.store.models import IdempotencyKey, MetricSample, Sandbox, SandboxLog
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sandpit.contract.node import Node, SandboxMetric
    from sandpit.control.accounts.keys import KeyService
    from sandpit.control.lifecycle.live import Live, LiveSandboxes
    from sandpit.control.settings import Retention
    from sandpit.control.templates.cleaning import Cleaner
    from sandpit.control.templates.templates import TemplateService
    from sandpit.store.database import Database

log = logging.getLogger(__name__)
MEASURED_AT_ONCE = 8
MAINTENANCE_SECONDS = 60.0


class Sampler:
    """Measures every running sandbox and writes the samples down, all of a round in one transaction."""

    def __init__(self, database: Database, node: Node, live: LiveSandboxes, interval: float) -> None:
        self._database = database
        self._node = node
        self._live = live
        self._interval = interval
        self._gate = asyncio.Semaphore(MEASURED_AT_ONCE)

    async def run(self) -> NoReturn:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.sample()
            except SQLAlchemyError:
                log.exception("a round of metrics was lost: the store refused it")

    async def sample(self) -> None:
        """One round. A sandbox that cannot be measured is left out."""
        running = [live for live in self._live if live.state == "running"]
        measured = await asyncio.gather(*(self._measure(live) for live in running))
        rows = [row for row in measured if row is not None]
        if not rows:
            return
        async with self._database.write() as session:
            await session.execute(insert(MetricSample), rows)

    async def _measure(self, live: Live) -> dict[str, object] | None:
        async with self._gate:
            try:
                metric = await self._node.metrics(live.sandbox_id)
                if live.metric is not None and metric.timestamp <= live.metric.timestamp:
                    return None
                row = _row(live.sandbox_id, metric)
            except NodeError as error:
                log.debug("no metrics of sandbox %s: %s", live.sandbox_id, error)
                return None
            except Exception:  # whatever one sandbox's measurement stumbles over must not end the server
                log.exception("sandbox %s could not be measured", live.sandbox_id)
                return None
        live.metric = metric
        return row


def _row(sandbox_id: str, metric: SandboxMetric) -> dict[str, object]:
    return {
        "sandbox_id": sandbox_id,
        "timestamp": from_unix(metric.timestamp),
        "cpu_count": metric.cpu_count,
        "cpu_used_pct": metric.cpu_used_pct,
        "mem_used": metric.mem_used,
        "mem_total": metric.mem_total,
        "mem_cache": metric.mem_cache,
        "disk_used": metric.disk_used,
        "disk_total": metric.disk_total,
    }


class Maintenance:
    """Throws away what is older than its retention, and writes down counts that requests left in memory."""

    def __init__(
        self,
        database: Database,
        keys: KeyService,
        templates: TemplateService,
        cleaner: Cleaner,
        retention: Retention,
    ) -> None:
        self._database = database
        self._cleaner = cleaner
        self._keys = keys
        self._templates = templates
        self._retention = retention

    async def run(self) -> NoReturn:
        while True:
            try:
                await self.clean()
            except SQLAlchemyError:
                log.exception("old records could not be thrown away: trying again in a minute")
            await asyncio.sleep(MAINTENANCE_SECONDS)

    async def clean(self) -> None:
        """One round; a transaction per table, so that requests get their turn in between."""
        await self._keys.flush_last_used()
        await self._templates.flush_spawned()
        await self._cleaner.clean()
        now = utc_now()
        keep = self._retention
        old = (
            delete(MetricSample).where(MetricSample.timestamp < now - timedelta(seconds=keep.metrics)),
            delete(SandboxLog).where(SandboxLog.timestamp < now - timedelta(seconds=keep.logs)),
            delete(Sandbox).where(
                Sandbox.state == "ended", Sandbox.end_at < now - timedelta(seconds=keep.ended_sandboxes)
            ),
            delete(IdempotencyKey).where(IdempotencyKey.created_at < now - timedelta(seconds=KEPT_SECONDS)),
        )
        for statement in old:
            async with self._database.write() as session:
                await session.execute(statement)
