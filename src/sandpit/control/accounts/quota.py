"""How much disk a team's paused sandboxes and snapshots take up, and how much its templates. What is being made is reserved."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from sandpit.contract.errors import NodeError
from sandpit.control.errors import LimitReachedError, SandboxFailedError
from sandpit.lib.ledger import DiskLedger, OverLimit
from sandpit.store.models import Sandbox, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.orm import Session

    from sandpit.contract.node import Node
    from sandpit.control.lifecycle.live import Live
    from sandpit.lib.ledger import Reservation
    from sandpit.store.database import Database

_UNKNOWN_BYTES = 1 << 30
"""Reserved for a snapshot of a sandbox that cannot be measured."""
BUILD_BYTES = 10 << 30
"""Reserved for a build while it runs: what it will add is known at its end."""


class SnapshotQuota:
    """Refuses more when a team has used up its share.

    What a snapshot will take is estimated from above (the memory's limit and the disk in use) and reserved. Snapshots whose estimates do
    not fit beside each other are taken one after another, and a team's last one may pass its limit, by its own size.
    """

    def __init__(self, database: Database, node: Node, limit_mb: int) -> None:
        self._database = database
        self._node = node
        self._limit_mb = limit_mb
        self._disk = DiskLedger(self.used)

    async def used(self, team_id: str | None = None) -> int:
        """Bytes of one team, or of all."""
        return await self._database.run(lambda session: _used(session, team_id))

    @asynccontextmanager
    async def reserve(self, live: Live, *, memory: bool) -> AsyncIterator[Reservation]:
        """The disk for a snapshot of a sandbox. Raises: LimitReachedError."""
        estimate = await self._estimate(live.sandbox_id, memory=memory)
        try:
            async with self._disk.reserve(live.team_id, estimate, self._limit_mb << 20) as reservation:
                yield reservation
        except OverLimit:
            raise LimitReachedError(
                f"the team's paused sandboxes and snapshots use up its disk, whose limit is {self._limit_mb} MiB: "
                "kill paused sandboxes, or delete snapshots"
            ) from None

    async def _estimate(self, sandbox_id: str, *, memory: bool) -> int:
        try:
            metric = await self._node.metrics(sandbox_id)
        except NodeError:
            return _UNKNOWN_BYTES
        return metric.disk_used + (metric.mem_total if memory else 0)


class TemplateQuota:
    """The same for template builds. The node measures: builds share layers, so their sizes do not add up."""

    def __init__(self, node: Node, limit_mb: int) -> None:
        self._node = node
        self._limit_mb = limit_mb
        self._disk = DiskLedger(self.used)

    async def used(self, team_id: str) -> int:
        """Bytes of one team. Raises: SandboxFailedError."""
        try:
            return await self._node.build_bytes(team_id)
        except NodeError as error:
            raise SandboxFailedError(str(error)) from error

    async def check(self, team_id: str) -> None:
        """Refuse early what `reserve` would refuse. Raises: LimitReachedError, SandboxFailedError."""
        used = await self.used(team_id)
        if used >= self._limit_mb << 20:
            raise self._full(used)

    @asynccontextmanager
    async def reserve(self, team_id: str) -> AsyncIterator[Reservation]:
        """The disk for a build while it runs; builds that do not fit beside each other wait.

        Raises: LimitReachedError, SandboxFailedError.
        """
        try:
            async with self._disk.reserve(team_id, BUILD_BYTES, self._limit_mb << 20) as reservation:
                yield reservation
        except OverLimit:
            raise self._full(await self.used(team_id)) from None

    def _full(self, used: int) -> LimitReachedError:
        return LimitReachedError(
            f"the team's templates use {used >> 20} MiB of disk, its limit is {self._limit_mb} MiB: "
            "delete templates, or tags of old builds"
        )


def _used(session: Session, team_id: str | None) -> int:
    paused = select(func.coalesce(func.sum(Sandbox.snapshot_bytes), 0)).where(Sandbox.state == "paused")
    kept = select(func.coalesce(func.sum(Snapshot.size), 0))
    if team_id is not None:
        paused, kept = paused.where(Sandbox.team_id == team_id), kept.where(Snapshot.team_id == team_id)
    return int(session.scalar(paused) or 0) + int(session.scalar(kept) or 0)
