"""Steps inside one transaction of the registry: finding rows of a tenant, locking them, adding some."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from softprompt.errors import LibraryError, NameRefused, NotFound, nearest
from softprompt.names import Ref, base_name, check_new_task
from softprompt.registry import tables
from softprompt.registry.records import AuditEntry, Origin, Version

AnyRow = Any
"""A row of a result. SQLAlchemy 2.0 and 2.1 type them in ways that exclude each other."""

PRODUCTION = "production"
"""The alias that a bare task name means, where it exists."""

_SAME = ("number", "digest", "base", "fingerprint", "created_at", "actor")
"""Fields of a version that are columns of the same name."""

_t, _v, _a, _o = tables.tasks.c, tables.versions.c, tables.aliases.c, tables.origins.c
_of_version = tables.origins.join(tables.versions, _v.id == _o.version_id).join(tables.tasks, _t.id == _v.task_id)

_carded = tables.cards.c.digest == _v.digest
VERSIONS = sa.select(*_v, tables.cards.c.card).join(tables.cards, _carded)
"""Rows of `versions` with their cards, as `version` takes them."""


def task_row(connection: Connection, tenant: str, task: str, *, lock: bool = False) -> AnyRow:
    """The row of a task, locked against other writers if asked.

    Raises:
        NotFound: this tenant has no such task.
    """
    statement = sa.select(tables.tasks).where(_t.tenant == tenant, _t.name == task)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    if row is None:
        names = connection.execute(sa.select(_t.name).where(_t.tenant == tenant)).scalars().all()
        mend = "`softprompt list` shows all" if names else "it has none yet: train one, or name another library with --home"
        raise NotFound(f"no task {task!r} for tenant {tenant!r}; {mend}", nearest(task, names))
    return row


def version_row(connection: Connection, task: AnyRow, number: int) -> AnyRow:
    """The row of a version, deleted or not.

    Raises:
        NotFound: the task has no such version.
    """
    row: AnyRow = connection.execute(VERSIONS.where(_v.task_id == task.id, _v.number == number)).first()
    if row is None:
        raise NotFound(
            f"task {task.name!r} has no version {number}: the highest is {task.last_number}; "
            f"`softprompt show {task.name}` lists them"
        )
    return row


def find(connection: Connection, tenant: str, ref: Ref, *, deleted: bool = False) -> Version:
    """The version that a reference means; one query where it is there, and one for its tags.

    Raises:
        NotFound: no such task, version or alias, or the version is deleted (unless `deleted` ones are asked for too).
    """
    number: Any = ref.number
    source: Any = tables.tasks
    if ref.number is None:
        alias = sa.and_(_a.task_id == _t.id, _a.name == (ref.alias or PRODUCTION))
        source = tables.tasks.outerjoin(tables.aliases, alias)
        number = _a.number if ref.alias else sa.func.coalesce(_a.number, _t.newest)
    source = source.join(tables.versions, sa.and_(_v.task_id == _t.id, _v.number == number)).join(tables.cards, _carded)
    statement = sa.select(*_v, tables.cards.c.card).select_from(source)
    row: AnyRow = connection.execute(statement.where(_t.tenant == tenant, _t.name == ref.task)).first()
    if row is None:
        _explain_missing(connection, tenant, ref)
    if row.deleted and not deleted:
        how = "" if ref.number is not None else f", which {ref} points to,"
        raise NotFound(
            f"version {ref.task}@{row.number}{how} is deleted; "
            f"`softprompt restore {ref.task}@{row.number}` brings it back, or promote another version"
        )
    return version(ref.task, row, tags_of(connection, [row.id]).get(row.id, ()))


def version(task: str, row: AnyRow, tags: tuple[str, ...] = ()) -> Version:
    """A row of `VERSIONS` as the registry gives it out."""
    same = {name: getattr(row, name) for name in (*_SAME, "deleted", "purged")}
    return Version(task=task, card_text=row.card, tags=tags, **same)


def refuse_hidden(connection: Connection, tenant: str, tasks: Iterable[str], base: str) -> None:
    """Refuse names by which requests would mean something else: tasks that are new, or of which all is deleted, named like a
    base of the registry, any task named like its own, and a new base, given by its name, named like a task of the tenant.

    Raises:
        NameRefused: there is one.
    """
    asked = {check_new_task(task, [base]) for task in tasks}
    known = {base_name(address) for address in _bases(connection)}
    of_tenant = sa.select(_t.name).where(_t.tenant == tenant)
    if base not in known and connection.execute(of_tenant.where(_t.name == base, _t.live > 0)).first() is not None:
        raise NameRefused(
            f"base {base!r} is refused: a task has that name, and requests for the model {base!r} would mean the base "
            "without a prompt; give the base's folder, or the task, another name"
        )
    if named := asked & known:
        there = connection.execute(of_tenant.where(_t.name.in_(named), _t.live > 0)).scalars()
        for task in sorted(named.difference(there)):
            check_new_task(task, known)


def _bases(connection: Connection) -> Iterator[str]:
    """The addresses of all bases that any version has, one step in the index for each."""
    last = ""
    while (last := connection.execute(sa.select(sa.func.min(_v.base)).where(_v.base > last)).scalar() or "") != "":
        yield last


def add_version(connection: Connection, task_id: int, added: Version) -> int:
    """Insert a new version and its tags, and return its id; its card must be there."""
    card = added.card
    values = {name: getattr(added, name) for name in _SAME} | {
        "task_id": task_id,
        "metric": card.metric,
        "value": card.metrics.get("value"),
        "data_digest": card.data_digest,
    }
    version_id: int = connection.execute(sa.insert(tables.versions).values(values).returning(_v.id)).scalar_one()
    if added.tags:
        rows = [{"version_id": version_id, "tag": tag} for tag in added.tags]
        connection.execute(sa.insert(tables.tags), rows)
    return version_id


def set_deleted(connection: Connection, task_id: int, number: int, deleted: bool) -> None:
    """Hide a version or show it again, and bring its task's counts of live versions up to date."""
    this = sa.and_(_v.task_id == task_id, _v.number == number)
    values = {"deleted": True} if deleted else {"deleted": False, "purged": False}
    connection.execute(sa.update(tables.versions).where(this).values(values))
    alive = sa.select(sa.func.max(_v.number), sa.func.count()).where(_v.task_id == task_id, ~_v.deleted)
    newest, live = connection.execute(alive).one()
    connection.execute(sa.update(tables.tasks).where(_t.id == task_id).values(newest=newest, live=live))


def tags_of(connection: Connection, version_ids: sa.Select[tuple[int]] | Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The tags of versions, given by their ids, a few thousand at most, or as a query of them."""
    c = tables.tags.c
    found: dict[int, list[str]] = defaultdict(list)
    for version_id, tag in connection.execute(sa.select(c.version_id, c.tag).where(c.version_id.in_(version_ids))):
        found[version_id].append(tag)
    return {version_id: tuple(sorted(tags)) for version_id, tags in found.items()}


def aliases_of(connection: Connection, task_id: int) -> dict[str, int]:
    """The aliases of a task and the numbers they point to, by name."""
    rows = connection.execute(sa.select(_a.name, _a.number).where(_a.task_id == task_id))
    return dict(sorted((row.name, row.number) for row in rows))


def audit(connection: Connection, tenant: str, task: str | None, limit: int | None) -> list[AuditEntry]:
    """The newest lines of a tenant's audit, of one task or of all, oldest first."""
    a = tables.audit.c
    statement = sa.select(tables.audit).where(a.tenant == tenant).order_by(a.id.desc()).limit(limit)
    rows = connection.execute(statement if task is None else statement.where(a.task == task)).fetchall()
    return [
        AuditEntry(row.id, row.at, row.actor, row.action, row.task, _state(row.before), _state(row.after), row.reason)
        for row in reversed(rows)
    ]


def _state(text: str | None) -> dict[str, Any] | None:
    return json.loads(text) if text else None


def add_origin(connection: Connection, version_id: int, origin: Origin) -> None:
    """Keep the origin of a version that was just added."""
    texts = {name: json.dumps(getattr(origin, name), allow_nan=False) for name in ("task_file", "data")}
    connection.execute(sa.insert(tables.origins).values(version_id=version_id, run=origin.run, **texts))


def origin_of(connection: Connection, tenant: str, ref: Ref) -> Origin | None:
    """The origin of a version given by number; None where none was kept."""
    this = (_t.tenant == tenant, _t.name == ref.task, _v.number == ref.number)
    row = connection.execute(sa.select(tables.origins).select_from(_of_version).where(*this)).first()
    return None if row is None else Origin(row.run, json.loads(row.task_file), json.loads(row.data))


def serving_wishes(connection: Connection, base: str) -> list[tuple[str, Any]]:
    """Of the bases at an address: what each tenant's tasks mean by their bare names, and the `serving:` block of the task
    file that it was trained from, where there is one."""
    alias = sa.and_(_a.task_id == _t.id, _a.name == PRODUCTION)
    meant = sa.and_(_v.task_id == _t.id, _v.number == sa.func.coalesce(_a.number, _t.newest))
    joined = tables.tasks.outerjoin(tables.aliases, alias).join(tables.versions, meant)
    joined = joined.join(tables.origins, _o.version_id == _v.id)
    same = sa.select(_v.fingerprint).where(_v.base.in_({base, os.path.abspath(base)})).scalar_subquery()
    statement = sa.select(_t.name, _v.number, _o.task_file).select_from(joined).order_by(_t.name, _t.tenant)
    said = _o.task_file.contains('"serving": ')
    rows = connection.execute(statement.where(~_v.deleted, _v.fingerprint.in_(same), said))
    return [(f"{row.name}@{row.number}", json.loads(row.task_file).get("serving")) for row in rows]


def published_by(connection: Connection, run: str, tenant: str, task: str) -> Ref | None:
    """The version, deleted or not, that a run has published; None where it has published none.

    Raises:
        LibraryError: the run is not that of this tenant and of `task`.
    """
    statement = sa.select(_t.tenant, _t.name, _v.number).select_from(_of_version).where(_o.run == run)
    row = connection.execute(statement).first()
    if row is None:
        return None
    if (row.tenant, row.name) != (tenant, task):
        raise LibraryError(f"run {run!r} has published another task already, and a run has one; give it an id of its own")
    return Ref(row.name, number=row.number)


def version_of_run(connection: Connection, run: str, tenant: str) -> Ref | None:
    """The version that a run of a tenant has published; None where it has none, or it is deleted."""
    statement = sa.select(_t.name, _v.number).select_from(_of_version)
    row = connection.execute(statement.where(_o.run == run, _t.tenant == tenant, ~_v.deleted)).first()
    return None if row is None else Ref(row.name, number=row.number)


def add_missing(connection: Connection, table: sa.Table, **values: object) -> bool:
    """Insert a row unless it is there, also when another writer is just doing the same. Whether it was not."""
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    added = insert(table).values(**values).on_conflict_do_nothing().returning(sa.literal(1))
    return connection.execute(added).first() is not None  # of an insert PostgreSQL's driver tells no number of rows


def _explain_missing(connection: Connection, tenant: str, ref: Ref) -> Any:
    task = task_row(connection, tenant, ref.task)
    if ref.number is not None:
        version_row(connection, task, ref.number)
    if ref.alias is not None:
        known = aliases_of(connection, task.id)
        raise NotFound(
            f"task {ref.task!r} has no alias {ref.alias!r}; `softprompt promote {ref.task}@N --alias {ref.alias}` makes it",
            nearest(ref.alias, known),
        )
    raise NotFound(
        f"task {ref.task!r} has no live version; `softprompt show {ref.task}` lists the deleted ones, "
        "`softprompt restore` brings one back"
    )
