"""What is to be judged: versions of the library, each with the rows that judge it. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.errors import ConfigError, DataError
from softprompt.registry.records import Version
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.sources import Row
from softprompt.tasks.config import parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library

Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A file of rows, or the rows."""


@dataclass(frozen=True)
class Case:
    """A version, and the rows that judge it."""

    version: Version
    task: Task
    rows: list[Row]

    @cached_property
    def judged(self) -> list[Row]:
        """Its rows but those whose input has nothing in any of its columns, as in training."""
        return [row for row in self.rows if not self.task.form.is_blank(row)]


def find_cases(
    tasks: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    library: Library,
    data: Rows | None = None,
    version: str | None = None,
) -> list[Case]:
    """The versions of task files with their test rows, or of tasks of the library with rows of one's own.

    Raises:
        ConfigError: a task file is wrong; or a version, made elsewhere, has a form that is not known here.
        NotFound: a task has no such version.
        DataError: the rows are wrong.
    """
    if isinstance(tasks, Mapping):
        raise ConfigError("a dictionary is no task file; name the task as the library has it, and give its rows as `data`")
    names = [os.fspath(tasks)] if isinstance(tasks, str | os.PathLike) else [os.fspath(name) for name in tasks]
    cases = [_of_file(library, name, version) if data is None else _on_rows(library, name, version, data) for name in names]
    for case in cases:
        form, there = case.task.form, {column for row in case.rows for column in row}
        for number, row in enumerate(case.rows, start=1):
            if form.is_blank(row) and there.issuperset(form.input.fields):
                continue
            where = f"task {case.task.name!r}, test row {number}"
            form.input.fill(row, where)
            form.answer(row, where)
        if case.rows and not case.judged:
            columns = " and ".join(map(repr, form.input.fields))
            raise DataError(f"task {case.task.name!r}: no row to judge is left, for none has anything in {columns}")
    return cases


def _of_file(library: Library, file: str, version: str | None) -> Case:
    if not file.endswith((".yaml", ".yml")):
        raise ConfigError(f"{file!r} is no task file (.yaml); for a task of the library give its rows with --data FILE")
    task = Task.load(file)
    rows = task.test
    found = library.registry.resolve(f"{task.name}@{version}" if version else task.name)
    return _case(found, task, rows)


def _on_rows(library: Library, ref: str, version: str | None, data: Rows) -> Case:
    if version and "@" in ref:
        raise ConfigError(f"{ref!r} names a version, and so does {version!r}; leave one of them out")
    found = library.registry.resolve(f"{ref}@{version}" if version else ref)
    task = Task(parse_config(form_fields(Form.of_card(found.card)), where=f"the card of {found.ref}"))
    rows = task.rows_of(str(Path(data).resolve())) if isinstance(data, str | os.PathLike) else rows_in_memory(data)
    return _case(found, task, rows)


def _case(version: Version, task: Task, rows: list[Row]) -> Case:
    task.form = Form.of_card(version.card)  # judged in the form it was tuned with, whatever the task file says by now
    return Case(version, task, rows)
