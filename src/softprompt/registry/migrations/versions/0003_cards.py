"""Cards in a table of their own, once for each digest, and an index for each filter of a listing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "cards",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("card", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_cards"),
    )
    op.execute("INSERT INTO cards (digest, card) SELECT digest, min(card) FROM versions GROUP BY digest")
    with op.batch_alter_table("versions", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("card")
        batch.create_foreign_key("fk_versions_digest_cards", "cards", ["digest"], ["digest"])
    for columns in (["fingerprint"], ["base"], ["metric", "value"]):
        op.drop_index(f"ix_versions_{'_'.join(columns)}", "versions", if_exists=True)
        columns += ["deleted", "task_id", "number"]
        op.create_index(f"ix_versions_{'_'.join(columns)}", "versions", columns, if_not_exists=True)
    op.drop_index("ix_tags_tag", "tags", if_exists=True)
    op.create_index("ix_tags_tag_version_id", "tags", ["tag", "version_id"], if_not_exists=True)
