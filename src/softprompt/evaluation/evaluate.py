"""Judging versions of the library on rows with answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.bases.base import BaseLike, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record, Version
from softprompt.tasks.config import parse_config
from softprompt.tasks.form import Form, form_fields
from softprompt.tasks.rows import Row
from softprompt.tasks.task import Task

if TYPE_CHECKING:
    from softprompt.library.library import Library


@dataclass(frozen=True)
class Evaluation(Record):
    """A version judged on rows with answers."""

    task: str
    version: int
    digest: str
    metric: str
    value: float
    stderr: float
    """Standard error of the value."""
    rows: int
    loss: float
    """Mean negative log-probability of the right label among the labels, or of a token of the answer."""
    truncated: int
    """Inputs that were cut to fit the context."""
    unfinished: int
    """Generated answers that ran into `max_new_tokens`."""


def evaluate(
    tasks: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    library: Library,
    data: str | os.PathLike[str] | None = None,
    version: str | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Judge tuned prompts on the test rows of their task files, or on the rows of one file of your own.

    Args:
        tasks: task files; with `data`, tasks of the library, each as TASK, TASK@N or TASK@ALIAS.
        data: rows with answers (.jsonl, .csv, .parquet ...).
        version: number or alias to judge where `tasks` name none; by default production, else the newest.
        base: a base that is loaded already, or how to load one; where nothing is said, as versions and task files name it.

    Raises:
        ConfigError: a task file is wrong; or a version, made elsewhere, has a form that is not known here.
        NotFound: a task has no such version.
        DataError: the rows are wrong.
    """
    names = [os.fspath(tasks)] if isinstance(tasks, str | os.PathLike) else [os.fspath(name) for name in tasks]
    found = _from_files(names, version) if data is None else _on_rows(library, names, version, Path(data).resolve())
    return _judge(library, found, base, progress or Silent())


def _from_files(files: Sequence[str], version: str | None) -> list[tuple[str, Task, list[Row]]]:
    found = []
    for file in files:
        if not file.endswith((".yaml", ".yml")):
            raise ConfigError(f"{file!r} is no task file (.yaml); for a task of the library give its rows with --data FILE")
        task = Task.load(file)
        found.append((f"{task.name}@{version}" if version else task.name, task, task.test))
    return found


def _on_rows(library: Library, refs: Sequence[str], version: str | None, data: Path) -> list[tuple[str, Task, list[Row]]]:
    found = []
    for ref in refs:
        if version and "@" in ref:
            raise ConfigError(f"{ref!r} names a version, and so does {version!r}; leave one of them out")
        ref = f"{ref}@{version}" if version else ref
        card = library.registry.resolve(ref).card
        fields = form_fields(Form.of_card(card)) | {"data": str(data)}
        task = Task(parse_config(fields, where=f"the card of {ref}"))
        found.append((ref, task, task.rows_of(str(data))))
    return found


def _judge(
    library: Library, found: Sequence[tuple[str, Task, list[Row]]], base: BaseLike, progress: Progress
) -> list[Evaluation]:
    groups: dict[BaseOptions, list[tuple[Version, Task, list[Row]]]] = {}
    for ref, task, test in found:
        version = library.registry.resolve(ref)
        groups.setdefault(_options(version, task), []).append((version, task, test))
    evaluations: list[Evaluation] = []
    for options, group in groups.items():
        loaded = base_of(base, options)
        trials = []
        for version, task, test in group:
            prompt = SoftPrompt.from_bytes(library.read(version), digest=version.digest)
            prompt.check_base(loaded)
            # Judged in the form it was tuned with, whatever the task file says by now.
            task.form = Form.of_card(prompt.card)
            examples = task.encode(loaded, test, len(prompt.vectors_PD), split="test")
            trials.append(Trial(task.form, prompt.vectors_PD.to(loaded.dtype), examples))
        with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
            engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
            reports = result_of(judge(engine, trials), advance)
        for (version, _, _), trial, report in zip(group, trials, reports, strict=True):
            scores = (report.metric, report.value, report.stderr, report.rows, report.loss)
            cut = (trial.examples.truncated, report.unfinished)
            evaluations.append(Evaluation(version.task, version.number, version.digest, *scores, *cut))
    return evaluations


def _options(version: Version, task: Task) -> BaseOptions:
    """The base of a version; where the task file names the same one, loaded as the file says. A version that was tuned
    without an adapter gets none."""
    named = task.base_options
    if version.base not in (named.address, str(Path(named.address).resolve())):
        return BaseOptions(source=version.base)
    adapter = named.adapter if "adapter" in version.card.recipe else None
    return BaseOptions(source=version.base, adapter=adapter, trust_remote_code=named.trust_remote_code)
