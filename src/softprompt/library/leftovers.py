"""What trainings and uploads left in a home and nobody will come for: counted, and deleted when it is old."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from softprompt.errors import LibraryError
from softprompt.registry import tables
from softprompt.registry.database import Database
from softprompt.registry.records import Record
from softprompt.stores import FolderStore

OLD_DAYS = 30.0
"""A checkpoint that nobody went on from for so long is taken for one that nobody will: its task file or its rows have
changed, and a checkpoint is found by those."""

PARTIAL_DAYS = 1 / 24
"""A file that is being written is written again and again; after an hour its writer was killed."""


@dataclass(frozen=True)
class Leftover(Record):
    """A file that is not needed any more."""

    file: str
    """Its path in the home."""
    bytes: int
    why: str
    written_ns: int | None = None
    """Of a checkpoint, when it was written: it is another one once its training has gone on."""

    def row(self) -> dict[str, Any]:
        """What people and machines are shown of it."""
        return {"file": self.file, "bytes": self.bytes, "why": self.why}


def count(home: Path) -> dict[str, Any]:
    """How many checkpoints and uploads there are in a home, and their bytes."""
    checkpoints = [size for _, size, _, _ in _checkpoints(home)]
    uploads = [size for _, size in _uploads(home)]
    return {
        "checkpoints": len(checkpoints),
        "checkpoint_bytes": sum(checkpoints),
        "uploads": len(uploads),
        "upload_bytes": sum(uploads),
    }


def plan_sweep(database: Database, home: Path, *, days: float = OLD_DAYS) -> list[Leftover]:
    """Checkpoints that were not written for so many days, what killed writers left of some, uploads that no row names, and
    local copies of a remote store's blobs that no row names, such as another home's of an erased tenant.

    Raises:
        RegistryError: the registry fails.
    """
    found = []
    for path, size, age, written in _checkpoints(home):
        partial = path.suffix == ".partial"
        if age >= (min(days, PARTIAL_DAYS) if partial else days):
            why = "its writer was killed" if partial else f"a checkpoint of {age:.0f} days ago"
            found.append(Leftover(str(path.relative_to(home)), size, why, written))
    digest = tables.files.c.digest
    with database.read() as connection:
        named = set(connection.execute(sa.select(digest).distinct()).scalars())
        cards = set(connection.execute(sa.select(tables.cards.c.digest)).scalars())
    cached = [item for item in _blobs_in(home / "cache") if item[0] not in cards]
    found += [Leftover(f"cache/{name}", size, "a copy of a blob that no version needs") for name, size in cached]
    if named:  # else the registry may be another one: they are needed there
        unnamed = [(name, size) for name, size in _uploads(home) if name not in named]
        found += [Leftover(f"files/{name}", size, "an upload that was never finished") for name, size in unnamed]
    return found


def sweep(database: Database, home: Path, plan: Sequence[Leftover]) -> list[str]:
    """Delete what a plan names and nobody has come for since; return the files deleted.

    Raises:
        LibraryError: one cannot be deleted, or the registry fails.
    """
    deleted = []
    for item in plan:
        path = home / item.file
        try:
            if path.parent == home / "files":
                gone = _delete_upload(database, home, path.name)
            else:
                gone = item.written_ns is None or not path.exists() or path.stat().st_mtime_ns == item.written_ns
                if gone:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise LibraryError(f"{path} cannot be deleted: {error.strerror}; mend its permissions") from error
        deleted += [item.file] * gone
    return deleted


def _delete_upload(database: Database, home: Path, digest: str) -> bool:
    """An upload puts its bytes first and its row later, and again what was deleted meanwhile: both under this lock."""
    with database.write() as connection:
        database.lock_digest(connection, digest)
        named = sa.select(tables.files.c.id).where(tables.files.c.digest == digest).limit(1)
        if connection.execute(named).first() is not None:
            return False
        FolderStore(home / "files", create=False).delete(digest)
    return True


def _checkpoints(home: Path) -> Iterator[tuple[Path, int, float, int]]:
    """Path, bytes, age in days and time of writing of every checkpoint, of jobs' too, and of every part of one."""
    runs = home / "runs"
    for folder in (runs, runs / "jobs"):
        for kind in ("*.checkpoint", "[!.]*.partial"):
            for path in sorted(folder.glob(kind)):
                with contextlib.suppress(FileNotFoundError):  # its training has just ended
                    state = path.stat()
                    yield path, state.st_size, (time.time() - state.st_mtime) / 86400, state.st_mtime_ns


def _uploads(home: Path) -> list[tuple[str, int]]:
    return _blobs_in(home / "files")


def _blobs_in(folder: Path) -> list[tuple[str, int]]:
    return sorted(FolderStore(folder, create=False).list()) if folder.is_dir() else []
