"""What servers saw of the rows that versions serve, references for versions that came without, and rows kept for review."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "windows",
        sa.Column("version_id", Sequence, autoincrement=False, nullable=False),
        sa.Column("server", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("tally", sa.Text, nullable=False),
        sa.Column("began_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "server", name="pk_windows"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_windows_version_id_versions"),
    )
    op.create_table(
        "drift_references",
        sa.Column("version_id", Sequence, autoincrement=False, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_drift_references"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_drift_references_version_id_versions"),
    )
    op.create_table(
        "reviews",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_reviews_task_id_tasks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reviews_task_id_id", "reviews", ["task_id", "id"])
