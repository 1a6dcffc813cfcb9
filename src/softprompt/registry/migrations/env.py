"""Alembic's entry: runs the steps on the connection that `database.upgrade` opened and has begun a transaction on."""

from __future__ import annotations

from alembic import context

from softprompt.registry.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction holds all steps together
)
context.run_migrations()
