"""A file of SQLite: made for its user alone, and read where it may not be written.

A file in WAL mode has a log beside it, and readers write there too. So where nobody may write, the file is read as one that
does not change, unless its log holds something, which must be read as well.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

BUSY_SECONDS = 30
"""How long a writer waits for another writer of the same file."""


class SqliteFile:
    """A file of SQLite, and those that it makes beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def read_only(self) -> bool:
        """Whether the file is there and this process may not write to it, or not beside it."""
        return self.path.exists() and not (_may_write(self.path) and _may_write(self.path.parent))

    def create(self) -> None:
        """Make an empty one, its user's alone, where there is none; SQLite makes its log with the same mode. Where that
        fails, SQLite says why."""
        with contextlib.suppress(OSError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def paths(self) -> list[Path]:
        """The file and those beside it."""
        return [self.path, *(self.path.with_name(f"{self.path.name}-{kind}") for kind in ("wal", "shm"))]

    def has_log(self) -> bool:
        """Whether there are writes in its log, which are not in the file yet."""
        try:
            return self.paths()[1].stat().st_size > 0
        except OSError:
            return False

    def stamp(self) -> tuple[int, int]:
        """Another value after the file was written."""
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size

    def connect_to_read(self) -> sqlite3.Connection:
        """A connection that makes no file and takes no lock."""
        fixed = "" if self.has_log() else "&immutable=1"
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode=ro{fixed}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
