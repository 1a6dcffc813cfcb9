"""Copying a whole library, all tenants, to another home, registry or store."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from softprompt.errors import LibraryError, NotFound, StoreError
from softprompt.files import make_home
from softprompt.library.maintenance import bar, named_blobs
from softprompt.progress import Progress
from softprompt.registry import tables
from softprompt.registry.database import Database
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Record
from softprompt.stores import Store, open_store, read_verified

_BATCH = 1000
"""Rows in one insert."""
_SEEN = (tables.windows, tables.reviews)
"""What servers on the target saw, which is not the source's to replace."""


@dataclass(frozen=True)
class CopyReport(Record):
    """What a copy brought over."""

    blobs: int = 0
    bytes: int = 0
    present: int = 0
    """Blobs that were there already, whole."""
    missing: int = 0
    """Blobs of deleted versions that the source has no more."""
    rows: int = 0
    """Rows of the registry; 0 where the registry stays the same."""
    added: dict[str, int] = field(default_factory=dict)
    """How many versions, aliases, tags and keys the target did not have."""
    changed: tuple[str, ...] = ()
    """What is otherwise in the target now than it was, a line each: aliases that moved, versions deleted or restored."""
    left: int = 0
    """Versions that the target had as they are."""


@dataclass(frozen=True)
class Target:
    """Where a copy goes; what is None stays the same."""

    store: Store | None
    url: str | URL | None
    home: Path | None = None
    """The home whose registry it is."""


def copy(source: Database, source_store: Store, target: Target, *, progress: Progress | None) -> CopyReport:
    """Copy every blob that a version names to a store, and its rows to the registry at a URL: numbers, aliases with their
    trails, tags, origins, audit, keys. Uploaded files, jobs, batches and curves of trainings stay behind, and so does what
    servers saw of rows: of that the target keeps its own.

    What is None, or is the source itself, stays the same. Blobs go first and rows last, in one transaction: a copy that
    was cut short is begun again by the same command. The source is only read, in the state in which the copy began.

    A target that is a former copy is brought up to date: every line of its audit is in the source's. Another one is refused.

    Raises:
        LibraryError: nothing new is named, or the target's registry has changes or feedback of its own, files, jobs or
            batches.
        NotFound, StoreError: a blob of the source is gone or altered; mend that first.
        RegistryError: a registry fails.
    """
    target_store = target.store
    if target_store is not None and target_store.shown == source_store.shown:
        target_store = None
    database = Database.open(target.url, home=target.home) if target.url is not None else None
    try:
        if database is not None and database.engine.url == source.engine.url:
            database.close()
            database = None
        if database is None and target_store is None:
            raise LibraryError("the copy would be the library itself; name another home, registry or store")
        with source.read() as connection:
            if database is not None:
                with database.read() as there:
                    _refuse_if_used(connection, there, database.shown)
                if connection.execute(sa.select(tables.keys.c.id).limit(1)).first() is not None:
                    database.make_private()
            counts: Mapping[str, Any] = {}
            if target_store is not None:
                counts = copy_blobs(source_store, target_store, named_blobs(connection), progress)
            if database is not None:
                counts = {**counts, **_copy_rows(connection, database)}
    finally:
        if database is not None:
            database.close()
        if target_store is not None:
            target_store.close()
    return CopyReport(**counts)


def target_of(home: str | Path | None, registry: str | None, store: str | None) -> Target:
    """Where to, by what is named. A home stands for its own registry and store.

    Raises:
        LibraryError: the home cannot be made.
        NameRefused, StoreError: the store cannot be opened.
    """
    url: str | URL | None = registry
    folder = None
    if home is not None:
        folder = Path(os.path.expanduser(home)).absolute()
        try:
            make_home(folder)
        except OSError as error:
            raise LibraryError(f"cannot create the home {folder}: {error.strerror}; choose another folder") from error
        url = registry or URL.create("sqlite", database=str(folder / "registry.db"))
        store = store or str(folder / "blobs")
    return Target(open_store(store) if store is not None else None, url, folder)


def _refuse_if_used(source: Connection, there: Connection, shown: str) -> None:
    """Refuse a registry that has anything which a copy would lose: whose audit is not the beginning of the source's."""

    def has(table: sa.Table) -> bool:
        return there.execute(sa.select(table).limit(1)).first() is not None

    for table in (tables.files, tables.jobs, tables.batches):
        if has(table):
            raise LibraryError(
                f"the registry {shown} has {table.name} already, and a copy would take their place; name an empty one"
            )
    if has(tables.tasks) and not has(tables.audit):
        raise LibraryError(f"the registry {shown} has tasks already, and a copy would take their place; name an empty one")
    every = sa.select(tables.audit).order_by(tables.audit.c.id).execution_options(yield_per=_BATCH)
    with there.execute(every.where(~_erased_since(source))) as theirs, source.execute(every) as ours:
        found = next((pair for pair in zip_longest(theirs, ours) if pair[0] is None or pair[0] != pair[1]), (None, None))
    line, same = found
    if line is None:
        _refuse_feedback(source, there, shown)
        return
    newer = "; where that one is the newer, copy the other way" if same is None else ""
    raise LibraryError(
        f"the registry {shown} is no former copy of this library: only there was {line.action!r} of "
        f"{line.task or 'no task'!r} done, at {line.at} by {line.actor}, and a copy would undo that{newer}; name an empty "
        "one"
    )


def _refuse_feedback(source: Connection, there: Connection, shown: str) -> None:
    """Refuse a former copy of whose answers clients have spoken since: the audit has no line of that. What the source has
    erased with a user's prompt or a tenant is no news."""
    a, f, t = tables.audit.c, tables.feedback.c, tables.tasks.c
    tasks = {(row.tenant, row.name): row.id for row in source.execute(sa.select(t.id, t.tenant, t.name))}
    known = {*map(tuple, source.execute(sa.select(f.task_id, f.name)))}
    last = there.execute(sa.select(sa.func.max(a.id))).scalar() or 0
    lines = source.execute(sa.select(a.tenant, a.task, a.before).where(a.action == "erase", a.id > last))
    erased = {(tasks.get((row.tenant, row.task)), json.loads(row.before).get("user")) for row in lines}
    theirs = sa.select(f.task_id, f.name, f.person, f.created_at, f.actor, t.name.label("task"))
    live = {*tasks.values()}
    for row in there.execute(theirs.join(tables.tasks, t.id == f.task_id).order_by(f.id)):
        if row.task_id in live and (row.task_id, row.name) not in known and (row.task_id, row.person) not in erased:
            raise LibraryError(
                f"the registry {shown} has feedback of its own: on {row.name!r} of task {row.task!r}, at {row.created_at} "
                f"by {row.actor}, and a copy would lose it; name an empty one"
            )


def _erased_since(source: Connection) -> sa.ColumnElement[bool]:
    """Lines of the audit of tenants that the source has erased: a copy is not the newer for having them."""
    a = tables.audit.c
    began, done = tables.ERASURES
    lines = sa.select(a.tenant, sa.func.max(a.id).label("id")).where(a.action == done).group_by(a.tenant)
    erased = [sa.and_(a.tenant == row.tenant, a.id < row.id) for row in source.execute(lines)]
    return sa.and_(sa.or_(sa.false(), *erased), a.action.not_in((began, done)))


def copy_blobs(source: Store, target: Store, named: Mapping[str, list[AnyRow]], progress: Progress | None) -> dict[str, int]:
    """Copy the blobs that rows name, by digest, to a store; how many came, were there, or are gone with their versions.

    Raises:
        NotFound, StoreError: one is gone or altered.
    """
    counts = {"blobs": 0, "bytes": 0, "present": 0, "missing": 0}
    there = {digest for digest, _ in target.list()}
    with bar(progress, "copy", len(named)) as advance:
        for digest, rows in named.items():
            advance(1, "")
            if digest in there and _is_whole(target, digest):
                counts["present"] += 1
                continue
            try:
                data = read_verified(source, digest)
            except NotFound:
                if not all(row.deleted for row in rows):
                    raise
                counts["missing"] += 1
                continue
            target.put(data)
            counts["blobs"] += 1
            counts["bytes"] += len(data)
    return counts


def _is_whole(target: Store, digest: str) -> bool:
    """Whether a blob that is there needs no copying: a copy is how a damaged library is mended."""
    try:
        read_verified(target, digest)
    except (NotFound, StoreError):
        return False
    return True


def _copy_rows(source: Connection, target: Database) -> dict[str, Any]:
    total = 0
    with target.write() as connection:
        _refuse_if_used(source, connection, target.shown)
        before, after = _Content.of(connection), _Content.of(source)
        seen = [(table, connection.execute(sa.select(table)).mappings().fetchall()) for table in _SEEN]
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))  # all that is there comes again
        for table in tables.metadata.sorted_tables:
            if table in tables.OF_ONE_HOME:
                continue
            statement = sa.select(table).order_by(*table.primary_key)
            for batch in source.execution_options(yield_per=_BATCH).execute(statement).mappings().partitions():
                connection.execute(sa.insert(table), [dict(row) for row in batch])
                total += len(batch)
            if not target.sqlite and "id" in table.c:
                # Rows came with their numbers; the counter that gives out new ones must follow.
                counter = sa.func.pg_get_serial_sequence(table.name, "id")
                highest = sa.select(sa.func.max(table.c.id)).scalar_subquery()
                connection.execute(sa.select(sa.func.setval(counter, sa.func.coalesce(highest, 1))))
        for table, rows in seen:
            (key,) = table.foreign_keys
            there = set(connection.execute(sa.select(key.column)).scalars())
            if stay := [dict(row) for row in rows if row[key.parent.name] in there]:
                connection.execute(sa.insert(table), stay)
    return {"rows": total, **after.since(before)}


@dataclass(frozen=True)
class _Content:
    """What people know of a registry, by name."""

    versions: dict[str, tuple[bool, str]]
    """Whether each is deleted, and its base."""
    aliases: dict[tuple[str, str], int]
    tags: set[tuple[str, str]]
    keys: dict[str, bool]
    """Whether each is revoked."""

    @classmethod
    def of(cls, connection: Connection) -> _Content:
        """All tenants' content."""
        t, v, a, k = tables.tasks.c, tables.versions.c, tables.aliases.c, tables.keys.c
        tasks = {row.id: f"{row.tenant}/{row.name}" for row in connection.execute(sa.select(t.id, t.tenant, t.name))}
        rows = connection.execute(sa.select(v.id, v.task_id, v.number, v.deleted, v.base)).fetchall()
        refs = {row.id: f"{tasks[row.task_id]}@{row.number}" for row in rows}
        return cls(
            {refs[row.id]: (row.deleted, row.base) for row in rows},
            {
                (tasks[row.task_id], row.name): row.number
                for row in connection.execute(sa.select(a.task_id, a.name, a.number))
            },
            {(refs[row.version_id], row.tag) for row in connection.execute(sa.select(tables.tags))},
            {
                f"{row.tenant}'s key {row.name!r} ({row.id})": row.revoked
                for row in connection.execute(sa.select(k.id, k.tenant, k.name, k.revoked))
            },
        )

    def since(self, before: _Content) -> dict[str, Any]:
        """What is added to, changed in and left of what was there before."""
        kept = self.versions.keys() & before.versions.keys()
        others = sorted(ref for ref in kept if self.versions[ref] != before.versions[ref])
        changed = []
        for ref in others:
            (deleted, base), (was_deleted, old_base) = self.versions[ref], before.versions[ref]
            changed += [f"{ref} {'deleted' if deleted else 'restored'}"] * (deleted != was_deleted)
            changed += [f"{ref}: base {old_base} -> {base}"] * (base != old_base)
        for (task, name), number in sorted(before.aliases.items()):
            now = self.aliases.get((task, name))
            if now != number:
                changed.append(f"{task}: {name} {number} -> {now or 'none'}")
        changed += [f"{ref}: tag {tag} removed" for ref, tag in sorted(before.tags - self.tags)]
        changed += [f"{key} revoked" for key in sorted(before.keys) if self.keys.get(key) and not before.keys[key]]
        added = {
            "versions": len(self.versions) - len(kept),
            "aliases": len(self.aliases.keys() - before.aliases.keys()),
            "tags": len(self.tags - before.tags),
            "keys": len(self.keys.keys() - before.keys.keys()),
        }
        return {"added": added, "changed": tuple(changed), "left": len(kept) - len(others)}
