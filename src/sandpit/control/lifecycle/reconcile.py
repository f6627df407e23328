"""At start: bring the records and the node into agreement.

A record says what its sandbox's callers were told. One that says "running" is a running sandbox while there is one, and a paused one if
only its snapshot is left. One that says "pausing" is its snapshot as soon as there is one: since that was taken, the sandbox has done
nothing more, and may be dying. One that says "paused" is its snapshot, even if a resume got as far as starting it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select

from sandpit.contract.errors import NodeError
from sandpit.control.lifecycle import records
from sandpit.store.models import Build, Sandbox, Team
from sandpit.store.types import utc_now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from sqlalchemy.orm import Session

    from sandpit.contract.node import RunningSandbox, SnapshotInfo
    from sandpit.control.accounts.teams import TeamService
    from sandpit.control.core import Core

log = logging.getLogger(__name__)
LOST = "lost: it was not running any more when the server started"


async def reconcile(core: Core, found: Sequence[RunningSandbox], teams: TeamService) -> None:
    """Adopt what runs or is paused and is recorded, close the records of what is gone, remove what nobody knows."""
    running = {sandbox.sandbox_id: sandbox for sandbox in found}
    snapshots = {snapshot.snapshot_id: snapshot for snapshot in core.node.snapshots()}
    recorded, kept = await core.database.run(lambda session: _settle(session, set(running), snapshots))
    for sandbox, team in recorded:
        if sandbox.state == "paused":
            core.adopt_paused(sandbox)
            del snapshots[sandbox.id]
        elif sandbox.state == "running":
            core.adopt(sandbox, running.pop(sandbox.id), teams.identity(team).max_session_seconds)
    for sandbox_id in running:
        log.warning("sandbox %s runs without a record that says so: killing it", sandbox_id)
        await core.discard(sandbox_id)
    for snapshot_id in snapshots.keys() - kept:
        log.warning("snapshot %s belongs to nothing: removing it", snapshot_id)
        await _quietly(core.node.remove_snapshot(snapshot_id))


def _settle(
    session: Session, running: set[str], snapshots: dict[str, SnapshotInfo]
) -> tuple[list[tuple[Sandbox, Team]], set[str]]:
    """Correct the records; returns those of sandboxes that have not ended, and which snapshots are kept under a name."""
    now = utc_now()
    query = select(Sandbox, Team).join(Team, Team.id == Sandbox.team_id).where(Sandbox.state != "ended")
    recorded = [(sandbox, team) for sandbox, team in session.execute(query)]
    for sandbox, _ in recorded:
        if sandbox.id in running and (sandbox.state == "running" or sandbox.id not in snapshots):
            sandbox.state = "running"
        elif sandbox.id in snapshots:
            if sandbox.state != "paused":
                records.pause_sandbox(session, sandbox.id, snapshots[sandbox.id], now)
        else:
            log.warning("sandbox %s is gone: closing its record", sandbox.id)
            records.close_sandbox(session, sandbox.id, LOST, now)
    kept = set(session.scalars(select(Build.id).where(Build.base_build_id.is_not(None))))
    return [(sandbox, team) for sandbox, team in recorded if sandbox.state != "ended"], kept


async def _quietly(work: Awaitable[None]) -> None:
    """What cannot be removed now is tried again at the next start."""
    try:
        await work
    except NodeError as error:
        log.warning("%s", error)
