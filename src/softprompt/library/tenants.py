"""A tenant leaves: what is theirs, and how it is erased; `takeout.py` writes it to a folder before.

Which rows are theirs follows from the tables themselves: those with a column `tenant`, and those that refer to such rows.
Blobs are named by what they hold, so an equal one of another tenant's is the same blob, and stays.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import LibraryError, NotFound, RegistryError, nearest
from softprompt.library import maintenance
from softprompt.names import check_tenant
from softprompt.registry import tables
from softprompt.registry.records import Record
from softprompt.registry.scope import Scope
from softprompt.stores import FolderStore, ReadCache

if TYPE_CHECKING:
    from softprompt.library.library import Library

ERASING, ERASED = tables.ERASURES
SHARED = (tables.cards,)
"""Tables whose rows are whose who names them: a card goes with the last version that has it."""

_TRIES = 3
"""How often rows that others wrote meanwhile are taken too."""

_BATCH = 1000
_a, _b, _c, _f, _j = tables.audit.c, tables.batches.c, tables.cards.c, tables.files.c, tables.jobs.c


@dataclass(frozen=True)
class Erasure(Record):
    """What is erased of a tenant, or would be."""

    tenant: str
    rows: dict[str, int]
    """Rows of each table that has any."""
    blobs: int
    """Blobs that nobody else has."""
    shared: int
    """Blobs that others have, too: they stay."""
    uploads: int
    uploads_elsewhere: int
    """Uploads whose bytes are in another home."""
    jobs_cancelled: int
    """Jobs that waited or ran."""
    histories: int
    """Curves of trainings in the home."""


def rows_of(tenant: str, metadata: sa.MetaData = tables.metadata) -> dict[sa.Table, sa.ColumnElement[bool]]:
    """Which rows of which tables are a tenant's, tables that are referred to first: by a column `tenant`, or by a reference
    to a row that is.

    Raises:
        LibraryError: a table says neither, and is not in `SHARED`: nobody could tell whose its rows are.
    """
    found: dict[sa.Table, sa.ColumnElement[bool]] = {}
    for table in metadata.sorted_tables:
        which = [table.c.name == tenant] if table.name == tables.tenants.name else []
        which += [table.c.tenant == tenant] if "tenant" in table.c else []
        for key in table.foreign_keys:
            if key.column.table in found and key.parent.name != "tenant":
                theirs = sa.select(key.column).where(found[key.column.table])
                which.append(key.parent.in_(theirs))
        if which:
            found[table] = sa.or_(*which)
        elif table.name not in {one.name for one in SHARED}:
            raise LibraryError(f"whose the rows of the table {table.name!r} are cannot be told; give it a column `tenant`")
    return found


def plan_erase(library: Library, tenant: str) -> Erasure:
    """What `erase` would take.

    Raises:
        NotFound: there is nothing of this tenant.
        RegistryError: the registry fails.
    """
    with library.registry.database.read() as connection:
        counts = counts_of(connection, tenant)
        if not counts:
            raise nothing_of(connection, tenant)
        digests = named_by(connection, tenant).keys()
        shared = len(digests & _named_by_others(connection, tenant))
        uploads = connection.execute(sa.select(_f.digest).where(_f.tenant == tenant)).scalars().all()
        waiting = sa.and_(_j.tenant == tenant, _j.finished_at.is_(None))
        cancelled = connection.execute(sa.select(sa.func.count()).where(waiting)).scalar_one()
    here = FolderStore(library.home / "files", create=False)
    there = sum(here.has(digest) for digest in uploads)
    return Erasure(
        tenant, counts, len(digests) - shared, shared, there, len(uploads) - there, cancelled,
        len(histories_of(library, tenant)),
    )  # fmt: skip


def erase(library: Library, tenant: str, *, reason: str | None = None) -> Erasure:
    """Take away for good all that is a tenant's: rows, deleted versions and users' own too, with their bytes in the store,
    in this home's cache and among its uploads; jobs that wait or run are cancelled. What remains are two lines of the audit.

    The rows go first, in one transaction, so that nothing is answered with from then on. A call that was cut short is
    ended by the same call.

    Raises:
        NotFound: there is nothing of this tenant.
        LibraryError: others go on writing rows of this tenant.
        RegistryError, StoreError: the library fails; the same call goes on.
    """
    database = library.registry.database
    database.check_writable()
    plan = plan_erase(library, tenant)
    scope = Scope(database, tenant, library.registry.actor)
    _begin(scope, plan, reason)
    for _ in range(_TRIES):
        with database.read() as connection:
            digests = named_by(connection, tenant)
        for path in histories_of(library, tenant):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another's are in it
                path.parent.rmdir()
        _erase_uploads(library, tenant)
        _erase_rows(library, tenant)
        _erase_blobs(library, digests)
        if not database.forget_deleted():
            raise RegistryError(
                f"another reads the registry {database.shown} for long, whose log has what is erased until that ends; end "
                "it, and erase again"
            )
        if _close(scope, reason):
            return plan
    raise LibraryError(
        f"others go on writing rows of tenant {tenant!r}; revoke its keys, end its trainings, and erase it again"
    )


def _erase_uploads(library: Library, tenant: str) -> None:
    """A row goes with its bytes, so that what is left to do is told by the rows."""
    database = library.registry.database
    store = FolderStore(library.home / "files", create=False)
    with database.read() as connection:
        uploads = connection.execute(sa.select(_f.id, _f.digest).where(_f.tenant == tenant)).fetchall()
    for row in uploads:
        with database.write() as connection:
            database.lock_digest(connection, row.digest)
            connection.execute(sa.delete(tables.files).where(_f.id == row.id))
            named = connection.execute(sa.select(_f.id).where(_f.digest == row.digest).limit(1)).first()
            if named is None and store.root.is_dir():
                store.delete(row.digest)
    if store.root.is_dir():
        store.sweep()


def _erase_rows(library: Library, tenant: str) -> None:
    """All rows but the tenant's own, which stays until the bytes are gone, too, and those of uploads, which go with theirs;
    cards stay behind for `_erase_blobs`."""
    theirs = rows_of(tenant)
    with library.registry.database.write() as connection:
        # Whoever adds rows of a tenant refers to one of these, and waits; they are locked in the order in which all do it.
        referred = {key.column.table for table in theirs for key in table.foreign_keys}
        for table in theirs:
            if table in referred:
                mine = sa.select(*table.primary_key).where(theirs[table]).order_by(*table.primary_key)
                connection.execute(mine.with_for_update()).fetchall()
        for bank in connection.execute(sa.select(_j.bank).where(_j.tenant == tenant).distinct()).scalars().all():
            others = sa.and_(_j.bank == bank, _j.tenant != tenant, _j.finished_at.is_(None))
            if bank and connection.execute(sa.select(_j.id).where(others).limit(1)).first() is None:
                (library.runs / "jobs" / f"{bank}.checkpoint").unlink(missing_ok=True)
        # Answers that a server has made by now; its next look tells it that nobody waits for them.
        for name in connection.execute(sa.select(_b.name).where(_b.tenant == tenant)).scalars():
            answers_path(library, name).unlink(missing_ok=True)
        for table in _audit_last(theirs):
            if table not in (tables.tenants, tables.files):
                which = theirs[table] if table is not tables.audit else _lines_that_go(tenant)
                connection.execute(sa.delete(table).where(which))


def _erase_blobs(library: Library, digests: Iterable[str]) -> None:
    """The bytes of these digests that nobody needs, and of cards that nothing names any more: a card goes with its bytes, so
    what an erasure that was cut short left to do is told by the cards."""
    database = library.registry.database
    cache = ReadCache(library.home / "cache")
    unnamed = sa.select(_c.digest).where(maintenance.is_unnamed())
    with database.read() as connection:
        left = connection.execute(unnamed).scalars().all()
    for digest in sorted({*digests, *left}):
        with database.write() as connection:
            database.lock_digest(connection, digest)
            if maintenance.is_needed(connection, digest):
                continue
            if connection.execute(unnamed.where(_c.digest == digest)).first() is not None:
                connection.execute(sa.delete(tables.cards).where(_c.digest == digest))
            library.store.delete(digest)
            cache.drop(digest)
    if isinstance(library.store, FolderStore):
        library.store.sweep()


def _begin(scope: Scope, plan: Erasure, reason: str | None) -> None:
    """Say what goes, unless an erasure that was cut short has said so."""
    with scope.database.write() as connection:
        newest = sa.select(_a.action).where(_a.tenant == scope.tenant, _a.action.in_((ERASING, ERASED)))
        if connection.execute(newest.order_by(_a.id.desc()).limit(1)).scalar() != ERASING:
            scope.record(connection, ERASING, None, before={**plan.row()}, reason=reason)


def _close(scope: Scope, reason: str | None) -> bool:
    """Take the tenant's own row and say that all is done, unless there are other rows by now."""
    with scope.database.write() as connection:
        own = rows_of(scope.tenant)[tables.tenants]
        connection.execute(sa.select(tables.tenants).where(own).with_for_update())
        if counts_of(connection, scope.tenant).keys() - {tables.tenants.name}:
            return False
        connection.execute(sa.delete(tables.tenants).where(own))
        lines = sa.select(_a.before, _a.reason).where(_a.tenant == scope.tenant, _a.action == ERASING)
        began = connection.execute(lines.order_by(_a.id.desc()).limit(1)).one()
        scope.record(connection, ERASED, None, before=json.loads(began.before), reason=reason or began.reason)
        return True


def _audit_last(theirs: Iterable[sa.Table]) -> list[sa.Table]:
    """Tables that refer to others before those; the audit last, as by then every writer of this tenant has ended."""
    order = [table for table in reversed(tables.metadata.sorted_tables) if table in set(theirs)]
    return sorted(order, key=lambda table: table is tables.audit)


def _lines_that_go(tenant: str) -> sa.ColumnElement[bool]:
    return sa.and_(_a.tenant == tenant, _a.action.not_in((ERASING, ERASED)))


def counts_of(connection: Connection, tenant: str) -> dict[str, int]:
    """How many rows of each table are a tenant's; of the audit those that an erasure takes."""
    check_tenant(tenant)
    found = {}
    for table, which in rows_of(tenant).items():
        which = _lines_that_go(tenant) if table is tables.audit else which
        found[table.name] = connection.execute(sa.select(sa.func.count()).select_from(table).where(which)).scalar_one()
    return {name: count for name, count in found.items() if count}


def nothing_of(connection: Connection, tenant: str) -> NotFound:
    lines = sa.select(tables.audit).where(_a.tenant == tenant, _a.action == ERASED).order_by(_a.id.desc())
    line = connection.execute(lines.limit(1)).first()
    if line is not None:
        return NotFound(
            f"there is nothing of tenant {tenant!r}: {line.actor} erased it, at {line.at}; "
            f"see `softprompt --tenant {tenant} audit`"
        )
    known = connection.execute(sa.select(tables.tenants.c.name)).scalars().all()
    return NotFound(f"there is nothing of tenant {tenant!r}{nearest(tenant, known)}")


def named_by(connection: Connection, tenant: str) -> dict[str, list[Any]]:
    """The tenant's rows that name each blob, by digest."""
    every = maintenance.named_blobs(connection)
    own = {digest: [row for row in rows if row.tenant == tenant] for digest, rows in every.items()}
    return {digest: rows for digest, rows in own.items() if rows}


def _named_by_others(connection: Connection, tenant: str) -> set[str]:
    """The digests that anybody but a tenant names."""
    theirs = rows_of(tenant)
    others = [sa.select(name).where(~theirs[name.table]) for name in maintenance.names_of_cards()]
    return set(connection.execute(sa.union(*others)).scalars())


def histories_of(library: Library, tenant: str) -> list[Path]:
    """The curves of a tenant's trainings: files that are called as versions are, and those of TensorBoard."""
    folder = library.for_tenant(tenant).histories
    return sorted([*folder.glob("*@*.jsonl"), *folder.glob("tensorboard/*/events.out.tfevents.*")])


def answers_path(library: Library, batch: str) -> Path:
    """Where a home keeps the answers to a batch until that has ended."""
    return library.home / "batches" / f"{batch}.jsonl"
