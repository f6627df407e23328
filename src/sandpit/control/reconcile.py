"""At start: bring the records and the node into agreement."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from sandpit.control import records
from sandpit.node.contract import NodeError
from sandpit.store.models import Sandbox, Team
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandpit.control.sandboxes import SandboxService
    from sandpit.control.teams import TeamService
    from sandpit.node.contract import Node, RunningSandbox
    from sandpit.store.database import Database

log = logging.getLogger(__name__)
LOST = "lost: it was not running any more when the server started"


async def reconcile(
    database: Database, node: Node, found: Sequence[RunningSandbox], sandboxes: SandboxService, teams: TeamService
) -> None:
    """Adopt what runs and is recorded, close the records of what is gone, kill what nobody knows."""
    running = {sandbox.sandbox_id: sandbox for sandbox in found}
    now = utc_now()
    query = select(Sandbox, Team).join(Team, Team.id == Sandbox.team_id).where(Sandbox.state == "running")
    async with database.write() as session:
        recorded = [(sandbox, team) for sandbox, team in await session.execute(query)]
        for sandbox, _ in recorded:
            if sandbox.id not in running:
                log.warning("sandbox %s is gone: closing its record", sandbox.id)
                await session.run_sync(records.close_sandbox, sandbox.id, LOST, now)
    for sandbox, team in recorded:
        if (alive := running.pop(sandbox.id, None)) is not None:
            sandboxes.adopt(sandbox, alive, teams.identity(team).max_session_seconds)
    for sandbox_id in running:
        log.warning("sandbox %s runs without a record: killing it", sandbox_id)
        try:
            await node.kill(sandbox_id)
        except NodeError as error:
            log.warning("sandbox %s could not be killed: %s", sandbox_id, error)
