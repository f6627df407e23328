"""Builds that nobody needs any more, on the node and in the records.

A build is needed while a tag means it, and while there is a sandbox or a snapshot that was made of it: deleting a template, or replacing
its build, harms nothing that is there.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, exists, or_, select

from sandpit.contract.errors import NodeError
from sandpit.store.models import Build, Sandbox, Template, TemplateTag
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.contract.node import Node
    from sandpit.store.database import Database

log = logging.getLogger(__name__)
_REPLACED_SECONDS = 60.0
"""How long a build that has lost its last tag can still be started: creates that are under way have resolved it already."""
_WAITING_HOURS = 24.0
_FAILED_DAYS = 30.0


class Cleaner:
    """Throws away builds."""

    def __init__(self, database: Database, node: Node) -> None:
        self._database = database
        self._node = node
        self._lock = asyncio.Lock()

    async def clean(self) -> None:
        """One round."""
        async with self._lock:
            there = set(
                self._node.builds()
            )  # before the records are read: a build appears here before it is ready there
            needed = await self._database.run(_clean_records)
            for build_id in there - needed:
                try:
                    await self._node.remove_build(build_id)
                except NodeError as error:
                    log.warning("build %s stays for now: %s", build_id, error)


def _clean_records(session: Session) -> set[str]:
    """Delete rows of builds that are past; returns the ids of all builds that must stay on the node."""
    now = utc_now()
    tagged = exists().where(TemplateTag.build_id == Build.id)
    used = exists().where(Sandbox.build_id == Build.id, Sandbox.state != "ended")
    owned = Build.template_id.in_(select(Template.id).where(Template.team_id.is_not(None)))
    replaced = (Build.status == "ready") & (Build.updated_at < now - timedelta(seconds=_REPLACED_SECONDS))
    forgotten = (Build.status == "waiting") & (Build.created_at < now - timedelta(hours=_WAITING_HOURS))
    failed = (Build.status == "error") & (Build.finished_at < now - timedelta(days=_FAILED_DAYS))
    origins = set(session.scalars(select(Build.base_build_id).where(Build.base_build_id.is_not(None))))
    past = select(Build.id).where(
        owned, Build.base_build_id.is_(None), ~tagged, ~used, or_(replaced, forgotten, failed)
    )
    doomed = set(session.scalars(past)) - origins
    session.execute(delete(Build).where(Build.id.in_(doomed)))
    running = select(Sandbox.build_id).where(Sandbox.state != "ended")
    kept = session.scalars(select(Build.id).where(Build.status.in_(("ready", "building"))))
    return {*kept, *session.scalars(running), *(origin for origin in origins if origin is not None)}
