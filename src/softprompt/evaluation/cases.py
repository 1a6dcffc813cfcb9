"""What is to be judged: versions of the library, each with the rows that judge it. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from softprompt.bases.options import BaseOptions
from softprompt.errors import ConfigError, DataError
from softprompt.library.binding import options_for
from softprompt.library.passages import Passages
from softprompt.names import base_name
from softprompt.registry.records import Version
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import find_file, read_rows
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.splits import Source
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
    source: Source
    """The rows, blank ones left out as in training."""
    given: PlacedRows
    """All rows, blank ones too."""
    remarks: tuple[str, ...] = ()
    """What people should know of it before it is judged: a line each."""

    @property
    def rows(self) -> PlacedRows:
        """Those that judge it."""
        return self.source.rows

    @property
    def named(self) -> BaseOptions:
        """The base of the version, as :func:`named_base` has it."""
        return named_base(self.version, self.task.base_options)

    def options(self, base: BaseOptions) -> BaseOptions:
        """How the base is loaded: as `base` says, and where that says nothing as it is named.

        Raises:
            BaseModelError: it is not there, or no base lies there, as far as that shows without loading it.
        """
        return options_for(self.version, base, self.named)


def named_base(version: Version, named: BaseOptions) -> BaseOptions:
    """The base of a version; where the task file names the same one, loaded as the file says. A version that was tuned
    without an adapter gets none."""
    if version.base not in (named.address, str(Path(named.address).resolve())):
        return BaseOptions(source=version.base)
    adapter = named.adapter if "adapter" in version.card.recipe else None
    return BaseOptions(source=version.base, adapter=adapter, trust_remote_code=named.trust_remote_code)


def find_cases(
    tasks: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    library: Library,
    data: Rows | None = None,
    version: str | None = None,
    passages: Passages | None = None,
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
    found = passages or Passages()
    if data is None:
        return [_of_file(library, name, version, found) for name in names]
    return [_on_rows(library, name, version, data, found) for name in names]


def case_to_judge(ref: str, library: Library, data: Rows) -> tuple[Task | None, Case]:
    """A version on rows of one's own, or on the test rows of a task file (.yaml), with the task of that.

    Raises:
        ConfigError, NotFound, DataError: as :func:`find_cases` does.
    """
    file = os.fspath(data) if isinstance(data, str | os.PathLike) else ""
    task = Task.load(file) if file.endswith((".yaml", ".yml")) else None
    (case,) = find_cases([ref], library, data if task is None else task.test)
    return task, case


def _of_file(library: Library, file: str, version: str | None, passages: Passages) -> Case:
    if not file.endswith((".yaml", ".yml")):
        raise ConfigError(f"{file!r} is no task file (.yaml); for a task of the library give its rows with --data FILE")
    task = Task.load(file)
    if task.form.retriever is None:
        len(task.test)  # what is wrong with the rows is told first
    found = library.registry.resolve(f"{task.name}@{version}" if version else task.name)
    return case_of(library, found, task, f"the test rows of {PurePath(file).name}", passages)


def case_of(library: Library, version: Version, task: Task, shown: str, passages: Passages) -> Case:
    """A version on the test rows of a task file, which messages call `shown`. Raises as :func:`case_on` does."""
    own = task.form.retriever
    form = passages.form_of(library, version, own)
    if own is not None:
        task.form = replace(task.form, retriever=form.retriever or own)  # before the rows are read, and get their passages
    remarks = tuple(_told_differences(version, task, form))  # before the task has the version's form
    return replace(_case(version, task, task.test, shown, form), remarks=remarks)


def _on_rows(library: Library, ref: str, version: str | None, data: Rows, passages: Passages) -> Case:
    if version and "@" in ref:
        raise ConfigError(f"{ref!r} names a version, and so does {version!r}; leave one of them out")
    found = library.registry.resolve(f"{ref}@{version}" if version else ref)
    if isinstance(data, str | os.PathLike):
        name = os.fspath(data)
        return case_on(library, found, read_rows(find_file(name, Path.cwd()), name), PurePath(name).name, passages)
    return case_on(library, found, rows_in_memory(data), "the rows in memory", passages)


def case_on(library: Library, version: Version, rows: PlacedRows, shown: str, passages: Passages) -> Case:
    """A version on rows, which messages call `shown`.

    Raises:
        ConfigError: the version, made elsewhere, has a form that is not known here.
        DataError: the rows are wrong.
    """
    form = passages.form_of(library, version)
    task = Task(parse_config(form_fields(form) | form.kind(), where=f"the card of {version.ref}"))
    return _case(version, task, rows, shown, form)


def _told_differences(version: Version, task: Task, form: Form) -> Iterator[str]:
    """That a task file says by now something else than the version was tuned with, which is what counts."""
    config, own = task.config, task.form
    differ = [key for key in _OF_FORM if getattr(own, key) != getattr(form, key)]
    differ += [key for key in ("threshold", "answer_range") if getattr(config, key) not in (None, getattr(form, key))]
    differ += ["max_new_tokens"] if own.labels is None and own.max_new_tokens != form.max_new_tokens else []
    named = config.base or config.tokenizer_name_or_path
    if named and base_name(task.base_options.address) != base_name(version.base):
        differ.insert(0, "base")
    if not differ:
        return
    others = " and ".join([", ".join(differ[:-1]), differ[-1]] if differ[1:] else differ)
    yield (
        f"{version.ref} is judged as it was tuned, and the task file has another {others} by now, which does not count "
        "here; train again to have it"
    )
    if {*own.input.fields, own.target_field} != {*form.input.fields, form.target_field}:
        yield f"{version.ref}: the file reads other columns by now, so test rows may be some that it was trained on"


_OF_FORM = (
    "input", "target", "labels", "fold_labels", "id2label", "problem_type", "label_separator", "metric", "no_answer",
    "output_schema",
)  # fmt: skip
"""What a version was tuned with and a task file may say otherwise; keys of both."""


def _case(version: Version, task: Task, rows: PlacedRows, shown: str, form: Form) -> Case:
    task.form = form  # judged in the form it was tuned with, whatever the task file says by now
    source = Source.read(task.form, rows, shown, f"task {task.name!r}, ")
    if not source.rows:
        raise DataError(f"task {task.name!r}: {next(source.remarks_on_inputs(task.form))}; give rows with an input")
    return Case(version, task, source, rows)
