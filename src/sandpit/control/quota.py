"""How much disk a team's paused sandboxes and snapshots take up, and how much its templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from sandpit.control.errors import LimitReachedError, SandboxFailedError
from sandpit.node.contract import NodeError
from sandpit.store.models import Sandbox, Snapshot

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.node.contract import Node
    from sandpit.store.database import Database


class SnapshotQuota:
    """Refuses more when a team has used up its share."""

    def __init__(self, database: Database, limit_mb: int) -> None:
        self._database = database
        self._limit_mb = limit_mb

    async def used(self, team_id: str | None = None) -> int:
        """Bytes of one team, or of all."""
        return await self._database.run(lambda session: _used(session, team_id))

    async def check(self, team_id: str) -> None:
        """Raises: LimitReachedError."""
        used = await self.used(team_id)
        if used >= self._limit_mb << 20:
            raise LimitReachedError(
                f"the team's paused sandboxes and snapshots use {used >> 20} MiB of disk, its limit is {self._limit_mb} MiB: "
                "kill paused sandboxes, or delete snapshots"
            )


class TemplateQuota:
    """The same for template builds. The node measures: builds share layers, so their sizes do not add up."""

    def __init__(self, node: Node, limit_mb: int) -> None:
        self._node = node
        self._limit_mb = limit_mb

    async def used(self, team_id: str) -> int:
        """Bytes of one team. Raises: SandboxFailedError."""
        try:
            return await self._node.build_bytes(team_id)
        except NodeError as error:
            raise SandboxFailedError(str(error)) from error

    async def check(self, team_id: str) -> None:
        """Raises: LimitReachedError, SandboxFailedError."""
        used = await self.used(team_id)
        if used >= self._limit_mb << 20:
            raise LimitReachedError(
                f"the team's templates use {used >> 20} MiB of disk, its limit is {self._limit_mb} MiB: "
                "delete templates, or tags of old builds"
            )


def _used(session: Session, team_id: str | None) -> int:
    paused = select(func.coalesce(func.sum(Sandbox.snapshot_bytes), 0)).where(Sandbox.state == "paused")
    kept = select(func.coalesce(func.sum(Snapshot.size), 0))
    if team_id is not None:
        paused, kept = paused.where(Sandbox.team_id == team_id), kept.where(Snapshot.team_id == team_id)
    return int(session.scalar(paused) or 0) + int(session.scalar(kept) or 0)
