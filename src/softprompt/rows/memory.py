"""Rows that a program holds in memory, in the place of a file's. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from softprompt.errors import ConfigError, DataError
from softprompt.rows.places import PlacedRows, numbered
from softprompt.rows.values import Row, short
from softprompt.text import lone_surrogate

MEMORY = "memory:"
"""What the name of a split's rows begins with where they come from memory."""


_SPLITS = ("train", "validation", "test")


def is_table(given: Any) -> bool:
    """Whether something is a table as pandas, Arrow and polars have them, of which none yields its rows."""
    return hasattr(given, "columns") and any(hasattr(given, name) for name in ("to_pylist", "to_dicts", "to_dict"))


def take_rows(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, PlacedRows]]:
    """The fields of a config with a name in the place of rows, and the rows by these names.

    `data` may be rows, which are split, or a mapping of `train`, `validation` and `test` to rows, files or shares. Rows are
    a list of mappings, a pandas or Arrow table, or anything else that yields mappings.

    Raises:
        DataError: rows that are none.
    """
    data = fields.get("data")
    if data is None or isinstance(data, str):
        return dict(fields), {}
    splits = dict(data) if isinstance(data, Mapping) else {"train": data}
    taken = {}
    for split, value in splits.items():
        if split in _SPLITS and (is_table(value) or (isinstance(value, Iterable) and not isinstance(value, str | Mapping))):
            name = f"{MEMORY}{split}"
            what = f"the {split} rows in memory" if isinstance(data, Mapping) else _ROWS
            taken[name] = rows_in_memory(value, f"data: {split}", what)
            splits[split] = name
    return {**fields, "data": splits}, taken


_ROWS = "the rows in memory"


def rows_in_memory(given: Any, what: str = "the rows", called: str = _ROWS) -> PlacedRows:
    """Rows as a list of dictionaries of their own.

    Args:
        given: a list of mappings, or a table.
        what: where they were given, for messages on what is no row.
        called: what all of them are, for messages on one.

    Raises:
        DataError: there are none, or one is no mapping of names to values.
    """
    if isinstance(given, str | bytes | Mapping):
        raise ConfigError(f"{what}: {type(given).__name__} is no list of rows; give a list of dictionaries")
    if is_table(given):
        whole = getattr(given, "to_pylist", None) or getattr(given, "to_dicts", None)  # Arrow's, polars'
        given = whole() if whole is not None else given.to_dict("records")
    if not isinstance(given, Iterable):
        raise ConfigError(f"{what}: {type(given).__name__} is no list of rows; give a list of dictionaries")
    rows: list[Row] = []
    for number, row in enumerate(given, start=1):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise DataError(f"{what}, row {number}: this is {short(row)}; give a dictionary of columns")
        if half := lone_surrogate(dict(row)):
            raise DataError(f"{what}, row {number}: {half!r} is half of a surrogate pair and no character; mend the row")
        rows.append(dict(row))
    if not rows:
        raise DataError(f"{what}: there are no rows; give some")
    return numbered(rows, called)
