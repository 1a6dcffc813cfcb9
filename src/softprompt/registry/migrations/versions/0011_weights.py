"""Experiments whose weight changes keep the lowest and the highest one that they have had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("experiments", sa.Column("lowest_weight", sa.Float))
    op.add_column("experiments", sa.Column("highest_weight", sa.Float))
