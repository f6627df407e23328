"""Writing a sandbox's records: row, metadata, log lines, usage. Each function runs in the caller's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import insert

from sandpit.control import ids
from sandpit.store.models import Sandbox, SandboxLog, SandboxMetadata, Usage

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from sandpit.contract.node import SandboxSpec, SnapshotInfo
    from sandpit.control.lifecycle.requests import NewSandbox
    from sandpit.control.templates.templates import Resolved

FULL, FILESYSTEM, UNRESPONSIVE = "full", "filesystem", "unresponsive"
"""What a paused sandbox was put away with (Sandbox.pause_mode)."""
_COLUMNS = tuple(Sandbox.__table__.columns)
_INSERT_SANDBOX = insert(Sandbox)
_INSERT_METADATA = insert(SandboxMetadata)
_INSERT_LOG = insert(SandboxLog)


def new_sandbox(spec: SandboxSpec, team_id: str, new: NewSandbox, resolved: Resolved, now: datetime) -> Sandbox:
    """The row of a sandbox that has just started."""
    return Sandbox(
        id=spec.sandbox_id,
        team_id=team_id,
        template_id=spec.template_id,
        build_id=resolved.build.id,
        alias=resolved.alias,
        state="running",
        started_at=now,
        end_at=now + timedelta(seconds=new.timeout),
        ended_reason=None,
        timeout_s=new.timeout,
        cpu_count=resolved.build.cpu_count,
        memory_mb=resolved.build.memory_mb,
        disk_mb=resolved.build.disk_mb,
        access_token=spec.access_token,
        traffic_token=None if new.public_traffic else ids.new_secret(),
        allow_internet_access=new.allow_internet_access,
        user_metadata=dict(new.metadata),
        env_vars=dict(new.env_vars),
        network=dict(new.network) if new.network is not None else None,
        lifecycle=new.lifecycle(),
        mcp=dict(new.mcp) if new.mcp is not None else None,
        pause_mode=None,
        snapshot_bytes=0,
    )


def copied_sandbox(origin: Sandbox, spec: SandboxSpec, timeout_s: int, now: datetime) -> Sandbox:
    """The row of a fork that has just started: all as it is with its origin but identity, tokens and times."""
    same = {column.key: getattr(origin, column.key) for column in _COLUMNS}
    own = {
        "id": spec.sandbox_id,
        "state": "running",
        "started_at": now,
        "end_at": now + timedelta(seconds=timeout_s),
        "timeout_s": timeout_s,
        "access_token": spec.access_token,
        "traffic_token": None if origin.traffic_token is None else ids.new_secret(),
        "pause_mode": None,
        "snapshot_bytes": 0,
    }
    return Sandbox(**(same | own))


def insert_sandbox(session: Session, sandbox: Sandbox) -> None:
    """A sandbox has started. Plain inserts instead of the session's bookkeeping: every create waits for this."""
    connection = session.connection()
    row = {column.key: getattr(sandbox, column.key) for column in _COLUMNS}
    connection.execute(_INSERT_SANDBOX, row)
    pairs = [{"sandbox_id": sandbox.id, "key": key, "value": value} for key, value in sandbox.user_metadata.items()]
    if pairs:
        connection.execute(_INSERT_METADATA, pairs)
    fields = {"templateID": sandbox.template_id}
    connection.execute(_INSERT_LOG, _log(sandbox.id, sandbox.started_at, "sandbox created", fields))


def close_sandbox(session: Session, sandbox_id: str, reason: str, now: datetime) -> None:
    """A sandbox has ended; nothing happens when its records say so already."""
    sandbox = session.get(Sandbox, sandbox_id)
    if sandbox is None or sandbox.state == "ended":
        return
    if sandbox.state in ("running", "pausing"):
        _count_usage(session, sandbox, now)
    sandbox.state, sandbox.ended_reason, sandbox.end_at = "ended", reason, now
    sandbox.snapshot_bytes = 0
    write_log(session, sandbox_id, now, f"sandbox ended: {reason}", reason=reason)


def pause_sandbox(session: Session, sandbox_id: str, snapshot: SnapshotInfo, now: datetime) -> Sandbox:
    """A sandbox has been put away."""
    sandbox = session.get_one(Sandbox, sandbox_id)
    _count_usage(session, sandbox, now)
    sandbox.state, sandbox.end_at = "paused", now
    sandbox.pause_mode, sandbox.snapshot_bytes = _mode_of(snapshot), snapshot.size
    write_log(session, sandbox_id, now, "sandbox paused", mode=sandbox.pause_mode)
    return sandbox


def is_full(snapshot: SnapshotInfo) -> bool:
    """Whether the sandbox can go on where it was."""
    return _mode_of(snapshot) == FULL


def _mode_of(snapshot: SnapshotInfo) -> str:
    if not snapshot.memory:
        return FILESYSTEM
    return FULL if snapshot.responsive else UNRESPONSIVE


def resume_sandbox(session: Session, sandbox_id: str, now: datetime, life: timedelta) -> Sandbox:
    """A paused sandbox runs again."""
    sandbox = session.get_one(Sandbox, sandbox_id)
    sandbox.state, sandbox.started_at, sandbox.end_at = "running", now, now + life
    sandbox.pause_mode, sandbox.snapshot_bytes = None, 0
    write_log(session, sandbox_id, now, "sandbox resumed")
    return sandbox


def _count_usage(session: Session, sandbox: Sandbox, now: datetime) -> None:
    """Write down what a run used that ends now."""
    seconds = max((now - sandbox.started_at).total_seconds(), 0.0)
    session.add(
        Usage(
            sandbox_id=sandbox.id,
            team_id=sandbox.team_id,
            template_id=sandbox.template_id,
            started_at=sandbox.started_at,
            ended_at=now,
            vcpu_seconds=sandbox.cpu_count * seconds,
            gib_seconds=sandbox.memory_mb / 1024 * seconds,
        )
    )


def write_log(
    session: Session, sandbox_id: str, when: datetime, message: str, *, level: str = "info", **fields: str
) -> None:
    """One line of the sandbox's log."""
    session.execute(_INSERT_LOG, _log(sandbox_id, when, message, fields, level))


def _log(
    sandbox_id: str, when: datetime, message: str, fields: dict[str, str], level: str = "info"
) -> dict[str, object]:
    return {
        "sandbox_id": sandbox_id,
        "timestamp": when,
        "level": level,
        "logger": "sandbox",
        "message": message,
        "fields": fields,
    }
