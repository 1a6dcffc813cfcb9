"""Tables that a browser sends: read as files of that name are."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fastapi import UploadFile

from softprompt.errors import DataError
from softprompt.rows.tables import Table, read_table

KINDS = ".csv,.tsv,.jsonl,.json,.txt,.xlsx,.parquet"
"""For file pickers."""


@contextmanager
def as_file(data: bytes, name: str) -> Iterator[Path]:
    """The bytes as a file with a name like the given one, until the block ends. Messages have the name alone.

    Raises:
        DataError: as what reads the file does.
    """
    with tempfile.TemporaryDirectory(prefix="softprompt-console-") as folder:
        path = Path(folder) / plain_name(name)
        path.write_bytes(data)
        try:
            yield path
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", "")) from None


def read(file: UploadFile, most: int) -> Table:
    """The rows of a table that was sent, of at most so many bytes unpacked.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    name = file.filename or ""
    if not name:
        raise DataError("no file was chosen; choose one")
    with as_file(file.file.read(), name) as path:
        return read_table(path, most=most)


def plain_name(name: str) -> str:
    """A name for a file on this machine: letters, digits and signs of the given one, and its kind."""
    last = PurePosixPath(name.replace("\\", "/"))
    kind = re.sub(r"[^a-z0-9.]", "", last.suffix.lower())[:16]
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last.stem).strip("-._")[:80]
    return (stem or "rows") + kind
