"""Batches keep the key that made them, and what is said of answers keeps whose own version gave them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("batches", sa.Column("key_id", Sequence))
    op.add_column("feedback", sa.Column("person", sa.String(128)))
