"""Users' histories: rows in a task's form, by user. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.names import check_user
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import find_file, read_rows
from softprompt.rows.values import short
from softprompt.tasks.form import Form
from softprompt.tasks.splits import Source
from softprompt.text import plural

USER = "user"
"""The column that says whose a row is, where the rows are of several users."""

History = str | os.PathLike[str] | Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]]
"""A file or a folder of files, rows, or rows by user."""


def read_histories(history: History, user: str | None = None) -> dict[str, PlacedRows]:
    """The rows of each user, in the order of their ids: of `user` alone where one is named, which then has all rows but
    those that their column says are another's. Else the folder has a file for each user, called by the id, or the rows
    have a column `user`.

    Raises:
        NameRefused: the id of a user is none.
        DataError: the rows cannot be read, or do not say whose they are.
    """
    if user is not None:
        check_user(user)
    if isinstance(history, Mapping):
        found = {name: rows_in_memory(rows, f"the history of {name!r}") for name, rows in history.items()}
    elif isinstance(history, str | os.PathLike) and Path(history).is_dir():
        files = sorted(one for one in Path(history).iterdir() if one.is_file() and not one.name.startswith("."))
        if twice := sorted({one.stem for one in files if sum(other.stem == one.stem for other in files) > 1}):
            raise DataError(f"the folder {os.fspath(history)!r} has several files of user {twice[0]!r}; leave one")
        found = {one.stem: read_rows(one, one.name) for one in files if user in (None, one.stem)}
    else:
        if isinstance(history, str | os.PathLike):
            name = os.fspath(history)
            rows = read_rows(find_file(name, Path.cwd()), name)
        else:
            rows = rows_in_memory(history, "history", "the history")
        found = _by_user(rows, user)
    if user is not None:
        found = {name: rows for name, rows in found.items() if name == user}
    if not found:
        raise DataError(f"the history has no rows{'' if user is None else f' of user {user!r}'}; give some")
    return {check_user(name): found[name] for name in sorted(found)}


def _by_user(rows: PlacedRows, user: str | None) -> dict[str, PlacedRows]:
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        value = row.get(USER, user)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise DataError(
                f"{rows.where(place)}: {USER!r} is {short(value)}, which says not whose it is; name the user of all rows "
                f"(--user ID), or give each row a column {USER!r}"
            )
        places.setdefault(value, []).append(place)
    return {name: rows.part(own) for name, own in places.items()}


def read_source(form: Form, user: str, rows: PlacedRows) -> Source:
    """A user's rows in a task's form. Raises `DataError` where one is wrong, or they are too few to learn from."""
    source = Source.read(form, rows, f"the history of {user!r}", f"user {user!r}, ")
    if source.different < 2:
        raise DataError(
            f"the history of user {user!r} has {plural(source.different, 'different input')}, and "
            "one is held out to choose by; give two or more"
        )
    return source
