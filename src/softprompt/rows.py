"""Rows of data: reading them from files or the hub, and splitting them by their own content. No torch."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from softprompt.errors import DataError

Row = dict[str, Any]

DEFAULT_DATA = "../shared/data"
"""Where data files are looked for last, when SOFTPROMPT_DATA names no other folder."""

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def find_file(name: str, folder: Path) -> Path:
    """A data file by its name: beside the task file, here, or under SOFTPROMPT_DATA.

    Raises:
        DataError: in none of these places.
    """
    given = Path(name).expanduser()
    places = [folder, Path.cwd(), Path(os.environ.get("SOFTPROMPT_DATA") or DEFAULT_DATA)]
    for place in places:
        if (place / given).is_file():
            return place / given
    looked = ", ".join(dict.fromkeys(str(place) for place in places)) if not given.is_absolute() else "its absolute path"
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
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
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
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}, line {number}: an object is needed, and this is {type(row).__name__}")
            if "\\u" in line:
                _refuse_half_characters(row, f"{file}, line {number}")
            rows.append(row)
    return rows


def _refuse_half_characters(row: Row, where: str) -> None:
    """JSON can escape half of a surrogate pair, which is no text: it can be neither digested nor tokenised."""
    try:
        canonical(row)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {error.object[error.start]!r} is half of a surrogate pair and no character; mend the row"
        ) from None


def _json(file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}); one object per line is called .jsonl") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: a list of objects is needed")
    if "\\u" in text:
        for number, row in enumerate(rows, start=1):
            _refuse_half_characters(row, f"{file}, row {number}")
    return rows


def _csv(file: Path) -> list[Row]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, delimiter=delimiter, strict=True)
        rows: list[Row] = []
        try:
            names = reader.fieldnames or []
            if len(set(names)) != len(names):
                raise DataError(f"{file}: two columns have the same name in {', '.join(map(repr, names))}")
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
            row[key] = feature.int2str(row[key])
    if not rows:
        raise DataError(f"split {split!r} of {dataset!r} has no rows")
    return rows


def canonical(row: Row) -> bytes:
    """A row as canonical JSON bytes."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode()


def position(row: Row) -> float:
    """Where a row falls in [0, 1) by its own content alone, so that a split never depends on order, seed or neighbours and
    equal rows fall together."""
    return int.from_bytes(hashlib.blake2b(canonical(row), digest_size=8).digest(), "big") / 2**64


def hold_out(rows: list[Row], start: float, share: float) -> tuple[list[Row], list[Row]]:
    """Split rows into those outside and those inside [start, start + share), some of each where two differ."""
    inside = [row for row in rows if start <= position(row) < start + share]
    outside = [row for row in rows if not start <= position(row) < start + share]
    if not inside and rows:
        lowest = min(map(position, rows))
        inside = [row for row in rows if position(row) == lowest]
        outside = [row for row in rows if position(row) != lowest]
        if not outside:
            return rows, []
    return outside, inside


def digest_rows(rows: list[Row]) -> str:
    """SHA-256 of rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical(row) + b"\n")
    return digest.hexdigest()
