"""Copying a whole library, all tenants, to another home, registry or store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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


def copy(
    source: Database, source_store: Store, url: str | URL | None, target_store: Store | None, *, progress: Progress | None
) -> CopyReport:
    """Copy every blob that a version names to a store, and its rows to the registry at a URL: numbers, aliases with their
    trails, tags, origins, audit, keys. Uploaded files and jobs stay behind.

    What is None, or is the source itself, stays the same. Blobs go first and rows last, in one transaction: a copy that
    was cut short is begun again by the same command. The source is only read, in the state in which the copy began.

    Raises:
        LibraryError: nothing new is named, or the target's registry has tasks, files or jobs already.
        NotFound, StoreError: a blob of the source is gone or altered; mend that first.
        RegistryError: a registry fails.
    """
    if target_store is not None and target_store.shown == source_store.shown:
        target_store = None
    target = Database.open(url) if url is not None else None
    try:
        if target is not None and target.engine.url == source.engine.url:
            target.close()
            target = None
        if target is None and target_store is None:
            raise LibraryError("the copy would be the library itself; name another home, registry or store")
        if target is not None:
            with target.read() as connection:
                _refuse_if_used(connection, target.shown)
        with source.read() as connection:
            counts: Mapping[str, int] = {}
            if target_store is not None:
                counts = _copy_blobs(source_store, target_store, named_blobs(connection), progress)
            rows = _copy_rows(connection, target) if target is not None else 0
    finally:
        if target is not None:
            target.close()
        if target_store is not None:
            target_store.close()
    return CopyReport(**counts, rows=rows)


def targets(home: str | Path | None, registry: str | None, store: str | None) -> tuple[Store | None, str | URL | None]:
    """The store and the registry's URL that are named. A home stands for its own; None is for what is not named.

    Raises:
        LibraryError: the home cannot be made.
        NameRefused, StoreError: the store cannot be opened.
    """
    url: str | URL | None = registry
    if home is not None:
        folder = Path(home).expanduser().absolute()
        try:
            make_home(folder)
        except OSError as error:
            raise LibraryError(f"cannot create the home {folder}: {error.strerror}; choose another folder") from error
        url = registry or URL.create("sqlite", database=str(folder / "registry.db"))
        store = store or str(folder / "blobs")
    return (open_store(store) if store is not None else None), url


def _refuse_if_used(connection: Connection, shown: str) -> None:
    for table in (tables.tasks, tables.files, tables.jobs):
        if connection.execute(sa.select(table.c.id).limit(1)).first() is not None:
            raise LibraryError(
                f"the registry {shown} has {table.name} already, and a copy would take their place; name an empty one"
            )


def _copy_blobs(
    source: Store, target: Store, named: Mapping[str, list[AnyRow]], progress: Progress | None
) -> dict[str, int]:
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


def _copy_rows(source: Connection, target: Database) -> int:
    total = 0
    with target.write() as connection:
        _refuse_if_used(connection, target.shown)
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))  # a tenant or a key may be there; nothing that anybody made is
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
    return total
