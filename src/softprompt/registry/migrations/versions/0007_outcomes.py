"""What suites found of versions, row by row. Versions of before have none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("version_id", Sequence, nullable=False),
        sa.Column("suite", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outcomes"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_outcomes_version_id_versions"),
        sa.UniqueConstraint("version_id", "suite", name="uq_outcomes_version_id_suite"),
        sqlite_autoincrement=True,
    )
