"""Experiments between two versions of a task, and what clients say of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("seed", sa.String(32), nullable=False),
        sa.Column("control", sa.Integer, nullable=False),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("level", sa.Float, nullable=False),
        sa.Column("auto", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("max_outcomes", sa.Integer),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decision", sa.String(16)),
        sa.Column("reason", sa.Text),
        sa.Column("control_outcomes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("control_total", sa.Float, nullable=False, server_default="0"),
        sa.Column("candidate_outcomes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("candidate_total", sa.Float, nullable=False, server_default="0"),
        sa.Column("compared", sa.Integer, nullable=False, server_default="0"),
        sa.Column("agreed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32)),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_experiments_task_id_tasks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_experiments_task_id_id", "experiments", ["task_id", "id"])
    op.create_index("ix_experiments_state", "experiments", ["state"])
    op.create_table(
        "feedback",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("name", sa.String(160), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("experiment_id", Sequence),
        sa.Column("arm", sa.String(16)),
        sa.Column("outcome", sa.Float),
        sa.Column("comment", sa.Text),
        sa.Column("correction", sa.Text),
        sa.Column("used_by", sa.Integer),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_feedback_task_id_tasks"),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name="fk_feedback_experiment_id_experiments"),
        sa.UniqueConstraint("task_id", "name", name="uq_feedback_task_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_experiment_id_arm", "feedback", ["experiment_id", "arm"])
