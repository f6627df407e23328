"""Paused sandboxes and snapshots."""

import sqlalchemy as sa
from alembic import op

from sandpit.store.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("build_id", sa.String(length=64), nullable=False),
        sa.Column("team_id", sa.String(length=36), nullable=False),
        sa.Column("template_id", sa.String(length=64), nullable=False),
        sa.Column("tag", sa.String(length=128), nullable=False),
        sa.Column("sandbox_id", sa.String(length=32), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["builds.id"], name=op.f("fk_snapshots_build_id_builds"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_snapshots_team_id_teams"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("build_id", name=op.f("pk_snapshots")),
    )
    with op.batch_alter_table("snapshots", schema=None) as batch_op:
        for column in ("team_id", "template_id", "sandbox_id"):
            batch_op.create_index(batch_op.f(f"ix_snapshots_{column}"), [column], unique=False)
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("base_build_id", sa.String(length=64), nullable=True))
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("pause_mode", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("snapshot_bytes", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.drop_column("snapshot_bytes")
        batch_op.drop_column("pause_mode")
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.drop_column("base_build_id")
    with op.batch_alter_table("snapshots", schema=None) as batch_op:
        for column in ("sandbox_id", "template_id", "team_id"):
            batch_op.drop_index(batch_op.f(f"ix_snapshots_{column}"))
    op.drop_table("snapshots")
