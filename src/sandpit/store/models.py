"""The tables. Portable between SQLite and PostgreSQL; every time is an aware UTC datetime."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sandpit.store.types import UtcDateTime, utc_now

RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER only


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, dict[str, str]: JSON}  # noqa: RUF012


class Team(Base):
    """Who owns sandboxes, templates and keys."""

    __tablename__ = "teams"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    slug: Mapped[str] = mapped_column(String(64), unique=True)
    """Namespace of the team's templates: `slug/name`."""
    max_sandboxes: Mapped[int | None]
    max_session_seconds: Mapped[int | None]
    banned: Mapped[bool] = mapped_column(default=False)
    blocked_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Member(Base):
    """A user's place in a team."""

    __tablename__ = "members"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True)
    is_default: Mapped[bool] = mapped_column(default=False)


class ApiKey(Base):
    """An API key; only its SHA-256 is kept, with as much of the text as lets its owner recognise it."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    shown_prefix: Mapped[str] = mapped_column(String(16))
    shown_suffix: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]


class AccessToken(Base):
    """A user's personal token (`sk_e2b_...`), kept like an API key."""

    __tablename__ = "access_tokens"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    shown_prefix: Mapped[str] = mapped_column(String(16))
    shown_suffix: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Template(Base):
    """A template. Without a team it came with the product and belongs to the platform."""

    __tablename__ = "templates"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    team_id: Mapped[str | None] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    public: Mapped[bool] = mapped_column(default=False)
    spawn_count: Mapped[int] = mapped_column(default=0)
    last_spawned_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class TemplateName(Base):
    """A name of a template: `namespace/name`, in lower case; the platform's namespace is empty."""

    __tablename__ = "template_names"

    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    template_id: Mapped[str] = mapped_column(ForeignKey("templates.id", ondelete="CASCADE"), index=True)


class Build(Base):
    """One build of a template: waiting, building, ready or error (current-protocol 10.1)."""

    __tablename__ = "builds"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    template_id: Mapped[str] = mapped_column(ForeignKey("templates.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(String(16))
    cpu_count: Mapped[int]
    memory_mb: Mapped[int]
    disk_mb: Mapped[int]
    runtime: Mapped[str] = mapped_column(String(32))
    reason: Mapped[dict[str, Any] | None]
    """Why it failed: `{message, step?}`."""
    base_build_id: Mapped[str | None] = mapped_column(String(64))
    """Of a snapshot of a sandbox: the build that the sandbox was made of. The build's id is then the snapshot's."""
    tags: Mapped[list[str] | None] = mapped_column(JSON)
    """What it is to be called when it is ready."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class BuildLog(Base):
    """A line of a template build's log."""

    __tablename__ = "build_logs"

    build_id: Mapped[str] = mapped_column(ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    timestamp: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    step: Mapped[str | None] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)


class TemplateTag(Base):
    """Which build `name:tag` means; the newest assignment replaces the one before."""

    __tablename__ = "template_tags"

    template_id: Mapped[str] = mapped_column(ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(128), primary_key=True)
    build_id: Mapped[str] = mapped_column(ForeignKey("builds.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Sandbox(Base):
    """A sandbox, running, paused or ended. Sizes as they were at create; `template_id` may name a deleted template."""

    __tablename__ = "sandboxes"
    __table_args__ = (Index("ix_sandboxes_team_id_state_started_at", "team_id", "state", "started_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"))
    template_id: Mapped[str] = mapped_column(String(64), index=True)
    build_id: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str | None] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), index=True)
    """`running`, `pausing` (shown as paused), `paused` or `ended`."""
    started_at: Mapped[datetime]
    end_at: Mapped[datetime]
    """When it expires; of a paused or ended one, when it was paused or ended."""
    ended_reason: Mapped[str | None] = mapped_column(Text)
    timeout_s: Mapped[int]
    """Seconds to live that were asked for at create."""
    cpu_count: Mapped[int]
    memory_mb: Mapped[int]
    disk_mb: Mapped[int]
    access_token: Mapped[str | None] = mapped_column(String(128))
    traffic_token: Mapped[str | None] = mapped_column(String(128))
    allow_internet_access: Mapped[bool | None]
    user_metadata: Mapped[dict[str, str]]
    env_vars: Mapped[dict[str, str]]
    network: Mapped[dict[str, Any] | None]
    """The network object as the API shows it (current-protocol 3.9)."""
    lifecycle: Mapped[dict[str, Any]]
    mcp: Mapped[dict[str, Any] | None]
    pause_mode: Mapped[str | None] = mapped_column(String(16))
    """Of a paused one: `full`; `filesystem` when its processes were not kept; `unresponsive`: full, but its agent did not answer."""
    snapshot_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """What a paused one takes up on disk."""


class Snapshot(Base):
    """A sandbox as it was, kept under a name: a build of a template that sandboxes can be made of."""

    __tablename__ = "snapshots"

    build_id: Mapped[str] = mapped_column(ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True)
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    template_id: Mapped[str] = mapped_column(String(64), index=True)
    tag: Mapped[str] = mapped_column(String(128))
    sandbox_id: Mapped[str] = mapped_column(String(32), index=True)
    memory: Mapped[bool]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class SandboxMetadata(Base):
    """The metadata pairs again, one a row, for the filters of lists."""

    __tablename__ = "sandbox_metadata"

    sandbox_id: Mapped[str] = mapped_column(ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(512), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class SandboxLog(Base):
    """What happened to a sandbox, and what it logged. Outlives the sandbox."""

    __tablename__ = "sandbox_logs"
    __table_args__ = (Index("ix_sandbox_logs_sandbox_id_timestamp", "sandbox_id", "timestamp"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    sandbox_id: Mapped[str] = mapped_column(ForeignKey("sandboxes.id", ondelete="CASCADE"))
    timestamp: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    level: Mapped[str] = mapped_column(String(8))
    logger: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)
    fields: Mapped[dict[str, str]]


class MetricSample(Base):
    """One measurement of a sandbox (current-protocol 3.8)."""

    __tablename__ = "metric_samples"

    sandbox_id: Mapped[str] = mapped_column(ForeignKey("sandboxes.id", ondelete="CASCADE"), primary_key=True)
    timestamp: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    cpu_count: Mapped[int]
    cpu_used_pct: Mapped[float]
    mem_used: Mapped[int] = mapped_column(BigInteger)
    mem_total: Mapped[int] = mapped_column(BigInteger)
    mem_cache: Mapped[int] = mapped_column(BigInteger)
    disk_used: Mapped[int] = mapped_column(BigInteger)
    disk_total: Mapped[int] = mapped_column(BigInteger)


class Usage(Base):
    """What a sandbox's run used; survives the sandbox's own record, so it refers to it by id only."""

    __tablename__ = "usage"
    __table_args__ = (UniqueConstraint("sandbox_id", "started_at"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=True)
    sandbox_id: Mapped[str] = mapped_column(String(32))
    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), index=True)
    template_id: Mapped[str] = mapped_column(String(64))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime] = mapped_column(index=True)
    vcpu_seconds: Mapped[float]
    gib_seconds: Mapped[float]


class IdempotencyKey(Base):
    """A create that carried an `Idempotency-Key` (current-protocol 2.3)."""

    __tablename__ = "idempotency_keys"

    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request."""
    state: Mapped[str] = mapped_column(String(16))
    """`running`, `done`, or `unknown`: the server ended in between."""
    sandbox_id: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
