"""What a version was trained from. Versions of before have no row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "origins",
        sa.Column("version_id", Sequence, nullable=False, autoincrement=False),
        sa.Column("run", sa.String(64)),
        sa.Column("task_file", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_origins"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_origins_version_id_versions"),
    )
    op.create_index("ix_origins_run", "origins", ["run"], unique=True)
