"""Upkeep of a whole library, all tenants: verify, collect garbage, count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import LibraryError, NotFound, PromptFileError, StoreError
from softprompt.progress import Advance, Progress
from softprompt.prompts.file import digest_of, read_card
from softprompt.registry import personal, tables
from softprompt.registry.database import Database
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import Record
from softprompt.registry.registry import Registry
from softprompt.registry.scope import Scope
from softprompt.stores import FolderStore, ReadCache, Store
from softprompt.stores.base import MEND
from softprompt.text import plural

_FAILURES_IN_A_ROW = 3
"""Unreadable blobs one after the other that count as a store that is away."""

_WORTH_A_BAR = 500
"""Blobs that take long enough to show a bar."""

_t, _v, _a, _c = tables.tasks.c, tables.versions.c, tables.aliases.c, tables.cards.c


@dataclass(frozen=True)
class Problem(Record):
    """Something that is not as it was recorded."""

    what: str
    """`blob gone`, `blob altered`, `blob unreadable`, `card differs`, `alias`, `count` or `database`."""
    digest: str | None
    versions: tuple[str, ...]
    """The versions it touches, as `tenant/task@N`."""
    detail: str


@dataclass
class Report:
    """What a verification read and found."""

    versions: int = 0
    blobs: int = 0
    bytes: int = 0
    unneeded: int = 0
    """Blobs that no version names: no problem, `gc` deletes them."""
    problems: list[Problem] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The report as a row for machines."""
        return {**self.__dict__, "ok": not self.problems, "problems": [problem.row() for problem in self.problems]}

    def summary(self) -> str:
        """One line for people."""
        read = f"read {plural(self.blobs, 'blob')}, {plural(self.bytes, 'byte')}, of {plural(self.versions, 'version')}"
        spare = f"; {plural(self.unneeded, 'blob')} not needed (`softprompt library gc`)" if self.unneeded else ""
        problems = plural(len(self.problems), "problem") if self.problems else "no problems"
        return f"{read}: {problems}{spare}"


@dataclass(frozen=True)
class Garbage(Record):
    """A blob that no version needs."""

    digest: str
    bytes: int
    versions: tuple[str, ...] = ()
    """Deleted versions that would lose it, and then cannot be restored."""


def verify(database: Database, store: Store, progress: Progress | None = None) -> Report:
    """Read every blob in the store again, past any cache, and check it and the registry against what is recorded.

    Raises:
        RegistryError: the registry fails.
        StoreError: the store fails as a whole.
    """
    report = Report()
    report.problems += [Problem("database", None, (), line) for line in database.check()]
    stored = {digest for digest, _ in store.list()}
    needed = set()
    failures = 0
    with database.read() as connection, bar(progress, "verify", len(stored)) as advance:
        report.problems += _wrong_rows(connection)
        with_card = _version_rows(tables.cards.c.card).join(tables.cards, tables.cards.c.digest == _v.digest)
        of_users = personal.rows_for_upkeep(tables.cards.c.card).join(
            tables.cards, tables.cards.c.digest == tables.personal.c.digest
        )
        every = sa.union_all(with_card.where(~_v.purged), of_users).subquery()
        by_digest = sa.select(every).order_by(every.c.digest)
        streamed = connection.execution_options(yield_per=1000).execute(by_digest)
        for digest, group in groupby(streamed, key=lambda row: row.digest):
            rows = list(group)
            needed.add(digest)
            report.versions += len(rows)
            problem = _check_blob(database, store, digest, rows, report)
            advance(1, "")
            if problem is None:
                failures = 0
                continue
            report.problems.append(problem)
            failures = failures + 1 if problem.what == "blob unreadable" else 0
            if failures == _FAILURES_IN_A_ROW:
                raise StoreError(f"the store fails again and again: {problem.detail}")
    report.unneeded = len(stored - needed)
    return report


def plan_gc(database: Database, store: Store, *, purge_deleted: bool = False) -> list[Garbage]:
    """The blobs that no version names; with `purge_deleted`, also those that only deleted versions name.

    Raises:
        LibraryError: there are blobs, and the registry names no version at all.
        RegistryError: the registry fails.
        StoreError: the store fails.
    """
    stored = sorted(store.list())
    with database.read() as connection:
        named = named_blobs(connection)
    if stored and not named:
        raise _not_ours(store, len(stored))
    plan = []
    for digest, size in stored:
        holders = [row for row in named.get(digest, ()) if not row.purged]
        if not holders or (purge_deleted and all(row.deleted for row in holders)):
            plan.append(Garbage(digest, size, tuple(_full_ref(row) for row in holders)))
    return plan


def gc(registry: Registry, store: Store, cache: ReadCache | None, plan: Sequence[Garbage]) -> list[str]:
    """Delete what the plan names, but nothing that has come to be needed since; return the digests deleted.

    A publish puts its blob first and its row later. Ages of blobs would tell the two apart only as long as clocks are
    right, so none is looked at: publishing and collecting one digest exclude each other by a lock in the registry, and
    a publish that finds its blob collected puts it again before its row is there for anyone to see.

    Raises:
        LibraryError: the plan names blobs, and the registry names no version at all.
        RegistryError: the registry fails.
        StoreError: the store fails.
    """
    deleted = []
    database = registry.database
    with database.read() as connection:
        if plan and connection.execute(sa.select(_v.id).limit(1)).first() is None:
            raise _not_ours(store, len(plan))
    for item in plan:
        if item.versions and not _give_up(registry, item.digest):
            continue
        with database.write() as connection:
            database.lock_digest(connection, item.digest)
            if is_needed(connection, item.digest):
                continue
            connection.execute(sa.delete(tables.cards).where(_c.digest == item.digest, is_unnamed()))
            store.delete(item.digest)
        if cache is not None:
            cache.drop(item.digest)
        deleted.append(item.digest)
    _drop_cards(database, store)
    if isinstance(store, FolderStore):
        store.sweep()
    return deleted


def _drop_cards(database: Database, store: Store) -> None:
    """Delete cards whose version was erased and whose bytes are gone: whoever erased it was killed before it took them. One
    whose bytes are there tells an erasure that goes on what it has to take."""
    with database.read() as connection:
        left = connection.execute(sa.select(_c.digest).where(is_unnamed())).scalars().all()
    for digest in left:
        with database.write() as connection:
            database.lock_digest(connection, digest)
            if not store.has(digest):
                connection.execute(sa.delete(tables.cards).where(_c.digest == digest, is_unnamed()))


def names_of_cards() -> list[sa.Column[Any]]:
    """The columns that refer to a card."""
    every = (key for table in tables.metadata.sorted_tables for key in table.foreign_keys)
    return [key.parent for key in every if key.column is _c.digest]


def is_unnamed() -> sa.ColumnElement[bool]:
    """Whether no row refers to a card."""
    return sa.and_(*(~sa.exists().where(name == _c.digest) for name in names_of_cards()))


def stats(database: Database, store: Store) -> dict[str, Any]:
    """Counts of the whole library, all tenants.

    Raises:
        RegistryError: the registry fails.
        StoreError: the store fails.
    """
    counts: dict[str, Any] = {"registry": database.shown, "store": store.shown}
    with database.read() as connection:
        for table in (tables.tenants, tables.tasks, tables.versions, tables.personal, tables.keys):
            counts[table.name] = connection.scalar(sa.select(sa.func.count()).select_from(table))
        counts["deleted"] = connection.scalar(sa.select(sa.func.count(_v.id)).where(_v.deleted))
    sizes = [size for _, size in store.list()]
    return {**counts, "blobs": len(sizes), "bytes": sum(sizes)}


def _give_up(registry: Registry, digest: str) -> bool:
    """Mark the deleted versions of a blob as purged, unless a live one needs it.

    Committed by itself: the versions are given up before the bytes go, never the other way round.
    """
    database = registry.database
    with database.write() as connection:
        database.lock_digest(connection, digest)
        if _holders(connection, digest, _v.deleted.is_(False)):
            return False
        held = _version_rows().where(_v.digest == digest, ~_v.purged)
        for row in connection.execute(held).fetchall():  # each in the audit of its own tenant
            before = {"version": row.number, "digest": digest}
            Scope(database, row.tenant, registry.actor).record(connection, "purge", row.task, before=before)
        same = sa.and_(_v.digest == digest, _v.deleted)
        connection.execute(sa.update(tables.versions).where(same).values(purged=True))
    return True


def bar(progress: Progress | None, name: str, total: int) -> AbstractContextManager[Advance]:
    """A stage of long work; none where nobody listens or the work is soon done."""
    if progress is None or total < _WORTH_A_BAR:
        return nullcontext(lambda steps, text: None)
    return progress.stage(name, total)


def named_blobs(connection: Connection) -> dict[str, list[AnyRow]]:
    """The versions that name each blob, purged ones and users' own too, by digest."""
    found: dict[str, list[AnyRow]] = defaultdict(list)
    for statement in (_version_rows().order_by(_v.id), personal.rows_for_upkeep()):
        for row in connection.execute(statement):
            found[row.digest].append(row)
    return found


def is_needed(connection: Connection, digest: str) -> bool:
    """Whether any version whose bytes were not given up names a blob, or any user's prompt."""
    return _holders(connection, digest, _v.purged.is_(False))


def _version_rows(*more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    columns = (_t.tenant, _t.name.label("task"), _v.number, _v.digest, _v.deleted, _v.purged)
    return sa.select(*columns, *more).select_from(tables.versions).join(tables.tasks, _v.task_id == _t.id)


def _holders(connection: Connection, digest: str, which: sa.ColumnElement[bool]) -> bool:
    named = connection.execute(sa.select(_v.id).where(_v.digest == digest, which).limit(1)).first() is not None
    return named or personal.holds(connection, digest)


def _not_ours(store: Store, blobs: int) -> LibraryError:
    return LibraryError(
        f"the registry names no version at all, and the store {store.shown} holds {blobs} blobs: they are "
        "another registry's, or this one was lost; mend --home, --registry or --store, or put back the registry"
    )


def _full_ref(row: AnyRow) -> str:
    return f"{row.tenant}/{row.task}@{row.number}"


def _check_blob(database: Database, store: Store, digest: str, rows: list[AnyRow], report: Report) -> Problem | None:
    refs = tuple(_full_ref(row) for row in rows)
    try:
        data = store.get(digest)
    except NotFound:
        with database.read() as connection:
            if not is_needed(connection, digest):
                return None  # purged while we read
        return Problem("blob gone", digest, refs, MEND)
    except StoreError as error:
        return Problem("blob unreadable", digest, refs, str(error))
    report.blobs += 1
    report.bytes += len(data)
    found = digest_of(data)
    if found != digest:
        return Problem("blob altered", digest, refs, f"its bytes have the digest {found}; {MEND}")
    try:
        card = read_card(data).canonical()
    except PromptFileError as error:
        return Problem("card differs", digest, refs, str(error))
    if any(row.card != card for row in rows):
        return Problem("card differs", digest, refs, "the registry has another card than the file: publish the file again")
    return None


def _wrong_rows(connection: Connection) -> list[Problem]:
    """Aliases that lead nowhere, and counts that do not count."""
    joined = tables.aliases.join(tables.tasks, _a.task_id == _t.id).outerjoin(
        tables.versions, sa.and_(_v.task_id == _a.task_id, _v.number == _a.number)
    )
    astray = sa.select(_t.tenant, _t.name.label("task"), _a.name, _a.number).select_from(joined)
    problems = [
        Problem(
            "alias",
            None,
            (_full_ref(row),),
            f"alias {row.name!r} points to a version that is deleted or was never there; promote or restore one",
        )
        for row in connection.execute(astray.where(sa.or_(_v.id.is_(None), _v.deleted)))
    ]
    counted = (
        sa.select(_v.task_id, sa.func.max(_v.number).label("newest"), sa.func.count().label("live"))
        .where(~_v.deleted)
        .group_by(_v.task_id)
        .subquery()
    )
    highest = sa.select(sa.func.max(_v.number)).where(_v.task_id == _t.id).scalar_subquery()
    statement = (
        sa.select(_t.tenant, _t.name)
        .select_from(tables.tasks.outerjoin(counted, counted.c.task_id == _t.id))
        .where(
            sa.or_(
                _t.newest.is_distinct_from(counted.c.newest),
                _t.live != sa.func.coalesce(counted.c.live, 0),
                _t.last_number < highest,
            )
        )
    )
    problems += [
        Problem("count", None, (f"{tenant}/{task}",), "the task's counts are not those of its versions; put back a backup")
        for tenant, task in connection.execute(statement)
    ]
    return problems
