"""Rows of data: finding them in files or on the hub, and their digest. No torch."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from softprompt.errors import DataError, reason_of
from softprompt.rows.places import PlacedRows, numbered
from softprompt.rows.tables import read_table
from softprompt.rows.values import Row as Row
from softprompt.rows.values import plain

DEFAULT_DATA = "../shared/data"
"""Where data files are looked for last, when SOFTPROMPT_DATA names no other folder."""


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
        raise DataError(f"no data file {name!r}; put it there, or mend the path")
    looked = ", ".join(dict.fromkeys(str(place) for place in places))
    hint = "" if os.environ.get("SOFTPROMPT_DATA") else "; set SOFTPROMPT_DATA to look in a data folder too"
    raise DataError(f"no data file {name!r} (looked in {looked}); put it there, or mend the path{hint}")


def read_rows(file: Path, name: str | None = None) -> PlacedRows:
    """Rows of a file of any kind that :mod:`softprompt.rows.tables` reads; messages on a row call the file `name`.

    Raises:
        DataError: unknown kind, not readable, not what its name says, or empty.
    """
    return read_table(file).placed(name or str(file))


def read_hub_split(dataset: str, name: str | None, split: str) -> PlacedRows:
    """Rows of a split of a hub data set, class numbers turned into their names.

    Raises:
        DataError: `datasets` is not installed, or the set or split cannot be had.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"reading {dataset!r} from the hub needs the datasets library; pip install 'softprompt[hub]'"
        ) from None
    try:
        table = datasets.load_dataset(dataset, name, split=split)
    except Exception as error:  # the library raises many kinds; none of them is ours
        raise DataError(
            f"split {split!r} of {dataset!r} cannot be read: {reason_of(error)}; mend the names, or check the network"
        ) from None
    # A set of labels is a list of class numbers, whose feature is within that of the list.
    within = {key: getattr(feature, "feature", feature) for key, feature in table.features.items()}
    named = {key: feature for key, feature in within.items() if isinstance(feature, datasets.ClassLabel)}
    rows = [{key: plain(value) for key, value in row.items()} for row in table]
    for row in rows:
        for key, feature in named.items():
            value = row[key]
            row[key] = [_name(feature, one) for one in value] if isinstance(value, list) else _name(feature, value)
    if not rows:
        raise DataError(f"split {split!r} of {dataset!r} has no rows; name another")
    return numbered(rows, f"the {split} split")


def _name(feature: Any, number: int | None) -> str | None:
    """The name of a class; None of -1, which stands for one that is not told."""
    name: str | None = feature.int2str(number) if number is not None and number >= 0 else None
    return name


def canonical(row: Row) -> bytes:
    """A row as canonical JSON bytes."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode()


def digest_rows(rows: list[Row]) -> str:
    """SHA-256 of rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical(row) + b"\n")
    return digest.hexdigest()
