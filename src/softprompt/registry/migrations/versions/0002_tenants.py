"""Tenants, keys, tags. What was there before belongs to the tenant `default`."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Sequence = sa.BigInteger().with_variant(sa.Integer, "sqlite")
AUTOINCREMENT = {"sqlite_autoincrement": True}
"""A table written anew does not inherit it."""


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    op.bulk_insert(tenants, [{"name": "default", "created_at": now}])

    # SQLite cannot change a constraint in place: batch mode writes the table anew and moves the rows.
    # The default fills the rows of before, and is taken away again.
    with op.batch_alter_table("tasks", table_kwargs=AUTOINCREMENT) as batch:
        batch.add_column(sa.Column("tenant", sa.String(128), nullable=False, server_default="default"))
        batch.drop_constraint("uq_tasks_name", type_="unique")
        batch.create_unique_constraint("uq_tasks_tenant_name", ["tenant", "name"])
        batch.create_foreign_key("fk_tasks_tenant_tenants", "tenants", ["tenant"], ["name"])
    with op.batch_alter_table("tasks", table_kwargs=AUTOINCREMENT) as batch:
        batch.alter_column("tenant", server_default=None)
    with op.batch_alter_table("audit", table_kwargs=AUTOINCREMENT) as batch:
        batch.add_column(sa.Column("tenant", sa.String(128), nullable=False, server_default="default"))
        batch.drop_index("ix_audit_task")
        batch.create_index("ix_audit_tenant_task", ["tenant", "task"])
    with op.batch_alter_table("audit", table_kwargs=AUTOINCREMENT) as batch:
        batch.alter_column("tenant", server_default=None)

    op.create_table(
        "tags",
        sa.Column("version_id", Sequence, nullable=False),
        sa.Column("tag", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "tag", name="pk_tags"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_tags_version_id_versions"),
    )
    op.create_index("ix_tags_tag", "tags", ["tag"])
    op.create_table(
        "keys",
        sa.Column("id", Sequence, nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("scopes", sa.String(128), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name="fk_keys_tenant_tenants"),
        sa.UniqueConstraint("hash", name="uq_keys_hash"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_keys_tenant_name", "keys", ["tenant", "name"])
