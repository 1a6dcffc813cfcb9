"""All that is a tenant's, written to a folder that is a library of its own, and can be read without one, too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from softprompt.errors import LibraryError
from softprompt.files import make_folder, make_home, make_private, sync_folder, write_whole
from softprompt.library import copying, maintenance, tenants
from softprompt.library.homes import REGISTRY
from softprompt.progress import Progress
from softprompt.registry import tables
from softprompt.registry.database import Database
from softprompt.registry.records import Record
from softprompt.stores import FolderStore, read_verified

if TYPE_CHECKING:
    from softprompt.library.library import Library

UNFINISHED = "export.unfinished"
"""File in an export that is not done: whose it is."""

_BATCH = 1000
_c, _f = tables.cards.c, tables.files.c


@dataclass(frozen=True)
class Exported(Record):
    """What was written of a tenant."""

    tenant: str
    path: str
    rows: dict[str, int]
    """Rows of each table that has any."""
    blobs: int
    bytes: int
    missing: int
    """Blobs of deleted versions that the library has no more."""
    uploads: int
    uploads_elsewhere: int
    """Uploads whose bytes are in another home."""
    histories: int
    """Curves of trainings in the home."""


def export(library: Library, tenant: str, folder: str | Path, *, progress: Progress | None = None) -> Exported:
    """Write all that is a tenant's to a folder: a home of its own, which any command reads (`--home FOLDER --tenant TENANT`)
    and `library copy` copies, with prompts in `blobs`, uploads in `files`, curves of trainings in `runs`, and every row as
    JSON in `rows`. One that was cut short has a file that says so, and the same call goes on with it.

    Raises:
        NotFound: there is nothing of this tenant; or a blob of a version that is not deleted is gone.
        LibraryError: the folder holds something else, or cannot be written; or the library fails.
    """
    target = Path(os.path.expanduser(folder)).absolute()
    database = library.registry.database
    with database.read() as connection:
        named = tenants.named_by(connection, tenant)
        counts = tenants.counts_of(connection, tenant)
        if not counts:
            raise tenants.nothing_of(connection, tenant)
        try:
            mark = _claim_folder(target, tenant)
            blobs = copying.copy_blobs(library.store, FolderStore(target / "blobs"), named, progress)
            uploads, elsewhere = _copy_uploads(connection, library.home, target, tenant)
            histories = tenants.histories_of(library, tenant)
            _copy_files(library.home, target, [*histories, *_answers(connection, library, tenant)])
            _write_json(connection, target / "rows", tenant)
            _write_registry(connection, target, tenant)
            mark.unlink()
            sync_folder(target)
        except OSError as error:
            raise LibraryError(f"cannot write to {str(target)!r}: {error.strerror}; choose another folder") from error
    rest = {name: blobs[name] for name in ("bytes", "missing")} | {"blobs": blobs["blobs"] + blobs["present"]}
    found = {"uploads": uploads, "uploads_elsewhere": elsewhere, "histories": len(histories)}
    return Exported(tenant, str(target), counts, **rest, **found)


def _claim_folder(target: Path, tenant: str) -> Path:
    """Make the folder of an export, closed to others; the file in it that says that the export is not done.

    Raises:
        LibraryError: the folder holds something else.
    """
    mark = target / UNFINISHED
    there = sorted(path.name for path in target.iterdir()) if target.exists() else []
    if there and not (mark.is_file() and mark.read_text(encoding="utf-8") == tenant):
        what = "a library" if REGISTRY in there else there[0]
        raise LibraryError(f"{str(target)!r} holds {what} already; choose an empty folder")
    make_home(target)
    make_private(target)
    write_whole(mark, tenant.encode())
    return mark


def _copy_uploads(connection: Connection, home: Path, target: Path, tenant: str) -> tuple[int, int]:
    """Bytes of uploads that are in this home; how many rows have theirs here, and how many elsewhere."""
    source = FolderStore(home / "files", create=False)
    digests = connection.execute(sa.select(_f.digest).where(_f.tenant == tenant)).scalars().all()
    here = [digest for digest in digests if source.has(digest)]
    if here:
        store = FolderStore(target / "files", mode=0o600)
        for digest in sorted(set(here)):
            if not store.has(digest):
                store.put(read_verified(source, digest))
    return len(here), len(digests) - len(here)


def _answers(connection: Connection, library: Library, tenant: str) -> list[Path]:
    """What batches that have not ended were answered so far."""
    names = connection.execute(sa.select(tables.batches.c.name).where(tables.batches.c.tenant == tenant)).scalars()
    return [path for name in names if (path := tenants.answers_path(library, name)).is_file()]


def _copy_files(home: Path, target: Path, files: Iterable[Path]) -> None:
    for file in files:
        copy = target / file.relative_to(home)
        make_folder(copy.parent)
        write_whole(copy, file.read_bytes())


def _write_json(connection: Connection, folder: Path, tenant: str) -> None:
    """Every row as a line of JSON, in a file for each table that has any."""
    make_folder(folder)
    for table, which in tenants.rows_of(tenant).items():
        rows = connection.execute(sa.select(table).where(which).order_by(*table.primary_key)).mappings().fetchall()
        if rows:
            text = "".join(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n" for row in rows)
            write_whole(folder / f"{table.name}.jsonl", text.encode())


def _write_registry(connection: Connection, target: Path, tenant: str) -> None:
    partial = target / f"{REGISTRY}.partial"
    for left in target.glob(f"{partial.name}*"):
        left.unlink()
    theirs = tenants.rows_of(tenant)
    digests = [sa.select(name).where(theirs[name.table]) for name in maintenance.names_of_cards()]
    theirs[tables.cards] = _c.digest.in_(sa.union(*digests))
    written = Database.open(URL.create("sqlite", database=str(partial)))
    try:
        with written.write() as there:
            for table in tables.metadata.sorted_tables:
                statement = sa.select(table).where(theirs[table]).order_by(*table.primary_key)
                rows = connection.execution_options(yield_per=_BATCH).execute(statement).mappings()
                for batch in rows.partitions():
                    there.execute(sa.insert(table), [dict(row) for row in batch])
    finally:
        written.close()
    partial.chmod(0o600)
    partial.rename(target / REGISTRY)
