"""Uploaded files of a tenant: rows in the registry, bytes in the home by their digest. No torch.

Bytes are stored before the row that names them and deleted after it, under the lock of their digest, so no row ever
names bytes that were not stored.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from softprompt.errors import FieldError, NotFound, StoreError
from softprompt.jobs.records import Page, fetch_page, find_row, record_of
from softprompt.jobs.rows import UploadedRows, read_upload
from softprompt.prompts.file import digest_of
from softprompt.registry import queries, tables
from softprompt.registry.queries import AnyRow
from softprompt.registry.records import now
from softprompt.stores import FolderStore, read_verified

if TYPE_CHECKING:
    from softprompt.library.library import Library

log = logging.getLogger("softprompt.jobs")

TRAINING = "fine-tune"
RESULTS = "fine-tune-results"
BATCH = "batch"
BATCH_OUTPUT = "batch_output"
"""What files are for: uploads to train from, and what a training leaves; uploads of requests, and their answers."""

MOST_BYTES = 100 * 2**20
"""Size of the largest upload, unless the server says otherwise."""

LONGEST_FILENAME = 512

_f = tables.files.c


@dataclass(frozen=True)
class UploadedFile:
    """An uploaded file."""

    name: str
    """Its id: `file-...`."""
    filename: str
    """What the client calls it."""
    purpose: str
    digest: str
    bytes: int
    created_at: str


class Uploads:
    """One tenant's files. Safe to share between threads."""

    def __init__(self, library: Library, *, most_bytes: int = MOST_BYTES) -> None:
        self.library = library
        self.most_bytes = most_bytes
        self.store = FolderStore(library.home / "files", create=False, mode=0o600)
        self._database = library.registry.database

    def add(self, data: bytes, filename: str, purpose: str = TRAINING) -> UploadedFile:
        """Check an upload and keep it.

        Raises:
            FieldError: another purpose, no usable name, too large, or a line is no row; nothing is kept.
            StoreError, ReadOnly: it cannot be written; nothing is kept.
        """
        if purpose not in (TRAINING, BATCH):
            raise FieldError(f"purpose {purpose!r} is refused; files are taken for {TRAINING!r} and {BATCH!r}", "purpose")
        if not filename or len(filename) > LONGEST_FILENAME or not filename.isprintable():
            raise FieldError(
                f"the filename {filename[:40]!a} has {len(filename)} characters; use 1 to {LONGEST_FILENAME} printable ones",
                "file",
            )
        if len(data) > self.most_bytes:
            raise FieldError(f"{filename}: {len(data)} bytes, and at most {self.most_bytes} are taken; split it", "file")
        if purpose == TRAINING:  # requests are read when a batch is made of them, which says for which route
            read_upload(data, filename)
        file = self._make(data, filename, purpose)
        self._open_folder()
        self.store.put(data)
        with self._database.write() as connection:
            self._database.lock_digest(connection, file.digest)
            if not self.store.has(file.digest):  # deleted since: no row named it yet
                self.store.put(data)
            self._insert(connection, file)
        return file

    def add_result(self, connection: Connection, data: bytes, filename: str, purpose: str = RESULTS) -> UploadedFile:
        """Keep what a training or a batch leaves, in the caller's transaction; its bytes are put here."""
        file = self._make(data, filename, purpose)
        self._open_folder()
        self._database.lock_digest(connection, file.digest)
        self.store.put(data)
        self._insert(connection, file)
        return file

    def page(
        self, *, purpose: str | None = None, after: str | None = None, limit: int = 100, newest_first: bool = True
    ) -> Page[UploadedFile]:
        """A page of files.

        Raises:
            NotFound: `after` names no file.
        """
        statement = sa.select(tables.files).where(_f.tenant == self.library.tenant)
        if purpose not in (None, TRAINING, RESULTS, BATCH, BATCH_OUTPUT):
            return Page([], False)
        if purpose is not None:
            statement = statement.where(_f.purpose == purpose)
        with self._database.read() as connection:
            if after is not None:
                last = self._row(connection, after).id
                statement = statement.where(_f.id < last if newest_first else _f.id > last)
            return fetch_page(connection, statement.order_by(_f.id.desc() if newest_first else _f.id), limit, _file)

    def get(self, name: str) -> UploadedFile:
        """A file by its id.

        Raises:
            NotFound: this tenant has none.
        """
        with self._database.read() as connection:
            return _file(self._row(connection, name))

    def read_rows(self, file: UploadedFile) -> UploadedRows:
        """The rows of a file; raises as `read` does."""
        return read_upload(self.read(file), file.filename)

    def read(self, file: UploadedFile) -> bytes:
        """The bytes of a file, checked. Clients are told what these errors say; where the home is, the log alone.

        Raises:
            NotFound: they are not in this home.
            StoreError: they are altered or cannot be read.
        """
        try:
            return read_verified(self.store, file.digest)
        except (NotFound, StoreError) as error:
            log.error("file %s: %s", file.name, error)
            gone = isinstance(error, NotFound)
            why = "are not in the home of this server" if gone else "are damaged or cannot be read"
            raise type(error)(f"the bytes of file {file.name!r} {why}; upload it again") from None

    def delete(self, name: str) -> None:
        """Delete a file for good; a job that still waits for it will fail.

        Raises:
            NotFound: this tenant has none.
        """
        with self._database.write() as connection:
            row = self._row(connection, name)
            self._database.lock_digest(connection, row.digest)
            connection.execute(sa.delete(tables.files).where(_f.id == row.id))
        with self._database.write() as connection:
            self._database.lock_digest(connection, row.digest)
            named = connection.execute(sa.select(_f.id).where(_f.digest == row.digest).limit(1)).first()
            if named is None:
                self.store.delete(row.digest)

    def _open_folder(self) -> None:
        """Make the folder of files, and see to it that the library is its user's alone."""
        self._database.check_writable()
        self._database.make_private()
        self.store.create()

    def _row(self, connection: Connection, name: str) -> AnyRow:
        row = find_row(connection, tables.files, self.library.tenant, name)
        if row is None:
            raise NotFound(f"there is no file {name!r}; GET /v1/files lists those there are")
        return row

    def _make(self, data: bytes, filename: str, purpose: str) -> UploadedFile:
        return UploadedFile(f"file-{secrets.token_hex(12)}", filename, purpose, digest_of(data), len(data), now())

    def _insert(self, connection: Connection, file: UploadedFile) -> None:
        tenant, actor = self.library.tenant, self.library.registry.actor
        queries.add_missing(connection, tables.tenants, name=tenant, created_at=file.created_at)
        connection.execute(sa.insert(tables.files).values(**vars(file), tenant=tenant, actor=actor))


def _file(row: AnyRow) -> UploadedFile:
    return record_of(UploadedFile, row)
