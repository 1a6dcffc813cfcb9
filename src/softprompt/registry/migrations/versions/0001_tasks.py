"""Tasks, versions, aliases with their trail, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("last_number", sa.Integer, nullable=False, server_default="0"),
        sa.Column("newest", sa.Integer),
        sa.Column("live", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("name", name="uq_tasks_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "versions",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.Column("metric", sa.String(128), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("data_digest", sa.String(128)),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("purged", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_versions_task_id_tasks"),
        sa.UniqueConstraint("task_id", "number", name="uq_versions_task_id_number"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_versions_digest", "versions", ["digest"])
    op.create_index("ix_versions_fingerprint", "versions", ["fingerprint"])
    op.create_index("ix_versions_base", "versions", ["base"])
    op.create_table(
        "aliases",
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "name", name="pk_aliases"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_aliases_task_id_tasks"),
    )
    op.create_table(
        "promotions",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("undone", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_promotions"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_promotions_task_id_tasks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_promotions_task_id_alias", "promotions", ["task_id", "alias"])
    op.create_table(
        "audit",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task", sa.String(128)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_task", "audit", ["task"])
