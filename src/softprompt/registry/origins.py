"""Origins: what versions were trained from, kept beside them, and which run published which version."""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import LibraryError
from softprompt.names import Ref
from softprompt.registry import tables
from softprompt.registry.records import Origin

_o, _t, _v = tables.origins.c, tables.tasks.c, tables.versions.c
_joined = tables.origins.join(tables.versions, _v.id == _o.version_id).join(tables.tasks, _t.id == _v.task_id)


def add(connection: Connection, version_id: int, origin: Origin) -> None:
    """Keep the origin of a version that was just added."""
    texts = {name: json.dumps(getattr(origin, name), allow_nan=False) for name in ("task_file", "data")}
    connection.execute(sa.insert(tables.origins).values(version_id=version_id, run=origin.run, **texts))


def of(connection: Connection, tenant: str, ref: Ref) -> Origin | None:
    """The origin of a version given by number; None where none was kept."""
    this = (_t.tenant == tenant, _t.name == ref.task, _v.number == ref.number)
    row = connection.execute(sa.select(tables.origins).select_from(_joined).where(*this)).first()
    return None if row is None else Origin(row.run, json.loads(row.task_file), json.loads(row.data))


def published_by(connection: Connection, run: str, tenant: str, task: str) -> Ref | None:
    """The version, deleted or not, that a run has published; None where it has published none.

    Raises:
        LibraryError: the run is not that of this tenant and of `task`.
    """
    statement = sa.select(_t.tenant, _t.name, _v.number).select_from(_joined).where(_o.run == run)
    row = connection.execute(statement).first()
    if row is None:
        return None
    if (row.tenant, row.name) != (tenant, task):
        raise LibraryError(f"run {run!r} has published another task already, and a run has one; give it an id of its own")
    return Ref(row.name, number=row.number)
