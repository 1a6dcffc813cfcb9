"""Rows of data: reading them from files or the hub, and their digest. No torch."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.text import lone_surrogate

Row = dict[str, Any]

DEFAULT_DATA = "../shared/data"
"""Where data files are looked for last, when SOFTPROMPT_DATA names no other folder."""

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

LONGEST_CELL = 1 << 30
"""Characters of one cell of a CSV file; Python's own bound of 131,072 is short for a document."""


def find_file(name: str, folder: Path) -> Path:
    """A data file by its name: beside the task file, here, or under SOFTPROMPT_DATA.

    Raises:
        DataError: in none of these places, or a folder.
    """
    given = Path(os.path.expanduser(name))
    places = [folder, Path.cwd(), Path(os.environ.get("SOFTPROMPT_DATA") or DEFAULT_DATA)]
    for place in places:
        if os.path.isfile(place / given):  # unlike Path's own, False also for a name that is too long
            return place / given
    for place in places:
        if os.path.isdir(place / given):
            raise DataError(f"the data file {name!r} is a folder ({place / given}); name a file in it")
    if given.is_absolute():
        raise DataError(f"no data file {name!r}; mend the path")
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    hint = "" if os.environ.get("SOFTPROMPT_DATA") else "; set SOFTPROMPT_DATA to look in a data folder too"
    raise DataError(f"no data file {name!r} (looked in {looked}){hint}")


def read_rows(file: Path) -> list[Row]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file.

    Raises:
        DataError: unknown kind, not readable, not what its name says, or empty.
    """
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"{file}: files of kind {kind or 'none'!r} are not read; use {', '.join(SUFFIXES)}")
    try:
        rows = _READERS[kind](file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None
    if not rows:
        raise DataError(f"{file} has no rows")
    return rows


def _jsonl(file: Path) -> list[Row]:
    rows: list[Row] = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: an object is needed, and this is {type(row).__name__}")
            if "\\u" in line:
                _refuse_half_characters(row, f"{file}, line {number}")
            rows.append(row)
    return rows


def unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object, as `object_pairs_hook`. JSON lets a key come twice, and Python would keep the last without a word.

    Raises:
        ValueError: a key comes twice.
    """
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return row


def _refuse_twice(names: Sequence[str], file: Path) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"{file}: two columns have the same name in {', '.join(map(repr, names))}")


def _refuse_half_characters(row: Row, where: str) -> None:
    if half := lone_surrogate(row):
        raise DataError(f"{where}: {half!r} is half of a surrogate pair and no character; mend the row")


def _json(file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error}); one object per line is called .jsonl") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: a list of objects is needed")
    if "\\u" in text:
        for number, row in enumerate(rows, start=1):
            _refuse_half_characters(row, f"{file}, row {number}")
    return rows


def _csv(file: Path) -> list[Row]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    csv.field_size_limit(LONGEST_CELL)
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, delimiter=delimiter, strict=True)
        rows: list[Row] = []
        try:
            names = reader.fieldnames or []
            _refuse_twice(names, file)
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{file}, line {reader.line_num}: {len(names)} columns are needed ({', '.join(names)}); "
                        "put texts with commas in double quotes"
                    )
                rows.append(dict(row))
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: not valid CSV ({error})") from None
    return rows


def _parquet(file: Path) -> list[Row]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        _refuse_twice(pyarrow.parquet.read_schema(file).names, file)
        rows: list[Row] = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None
    return rows


_READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}


def read_hub_split(dataset: str, name: str | None, split: str) -> list[Row]:
    """Rows of a split of a hub data set, class numbers turned into their names.

    Raises:
        DataError: `datasets` is not installed, or the set or split cannot be had.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"reading {dataset!r} from the hub needs the datasets library: pip install 'softprompt[hub]'"
        ) from None
    try:
        table = datasets.load_dataset(dataset, name, split=split)
    except Exception as error:  # the library raises many kinds; none of them is ours
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"split {split!r} of {dataset!r} cannot be read: {reason}") from None
    named = {key: feature for key, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)}
    rows = [dict(row) for row in table]
    for row in rows:
        for key, feature in named.items():
            number = row[key]
            row[key] = feature.int2str(number) if number is not None and number >= 0 else None  # -1: not told
    if not rows:
        raise DataError(f"split {split!r} of {dataset!r} has no rows")
    return rows


def canonical(row: Row) -> bytes:
    """A row as canonical JSON bytes."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode()


def digest_rows(rows: list[Row]) -> str:
    """SHA-256 of rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical(row) + b"\n")
    return digest.hexdigest()
