"""Prompts of one user, beside a task's versions; and for which users a key may ask: for any, if it is of before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "personal",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("task_id", Sequence, nullable=False),
        sa.Column("person", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_personal"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_personal_task_id_tasks"),
        sa.ForeignKeyConstraint(["digest"], ["cards.digest"], name="fk_personal_digest_cards"),
        sa.UniqueConstraint("task_id", "person", name="uq_personal_task_id_person"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_personal_digest", "personal", ["digest"])
    op.create_index("ix_personal_fingerprint", "personal", ["fingerprint"])
    op.add_column("keys", sa.Column("users", sa.Text))
