"""Judging versions of the library on rows with answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.cases import Case, Rows, find_cases
from softprompt.evaluation.trials import Trial, judge, result_of
from softprompt.library.binding import options_for
from softprompt.library.library import library_or_current
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent, loading
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record, Version
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
    blank: int = 0
    """Rows with nothing in any column of the input, which are left out of all that is counted."""
    outputs: tuple[str | None, ...] = field(default=(), repr=False)
    """What it said to each row; None to a blank one."""
    values: tuple[float | None, ...] = field(default=(), repr=False)
    """What each row counts, of which the value is the mean; for `f1`, which is no mean over rows, whether it is right; None
    of a blank one."""

    def row(self) -> dict[str, Any]:
        """Its fields as a row, without those that have an entry for each row of data."""
        return {name: value for name, value in super().row().items() if name not in ("outputs", "values")}


def evaluate(
    tasks: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    library: Library | None = None,
    data: Rows | None = None,
    version: str | None = None,
    base: BaseLike = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Judge tuned prompts on the test rows of their task files, or on the rows of one file of your own.

    Args:
        tasks: task files; with `data`, tasks of the library, each as TASK, TASK@N or TASK@ALIAS.
        library: by default the one in the current home.
        data: rows with answers: a file (.jsonl, .csv, .parquet ...), or the rows themselves.
        version: number or alias to judge where `tasks` name none; by default production, else the newest.
        base: a base that is loaded already, or how to load one; where nothing is said, as versions and task files name it.

    Raises:
        ConfigError: a task file is wrong; or a version, made elsewhere, has a form that is not known here.
        NotFound: a task has no such version.
        BaseModelError: the base is not where it is said to be, or cannot be loaded.
        FingerprintMismatch: a version was made for another base.
        DataError: the rows are wrong.
    """
    with library_or_current(library) as opened:
        return judge_cases(opened, find_cases(tasks, opened, data, version), base, progress or Silent())


def judge_cases(library: Library, cases: Sequence[Case], base: BaseLike, progress: Progress) -> list[Evaluation]:
    """Judge versions that are found already; those of one base together. See :func:`evaluate`."""
    groups: dict[BaseOptions, list[Case]] = {}
    for case in cases:
        named = _options(case.version, case.task)
        options = named if isinstance(base, FrozenBase) else options_for(case.version, BaseOptions.of(base), named)
        groups.setdefault(options, []).append(case)
    evaluations: list[Evaluation] = []
    for options, group in groups.items():
        with loading(progress, options.shown):
            loaded = base_of(base, options)
        trials = []
        for case in group:
            prompt = SoftPrompt.from_bytes(library.read(case.version), digest=case.version.digest)
            prompt.check_base(loaded)
            examples = case.task.encode(loaded, case.judged, len(prompt.vectors_PD), split="test")
            trials.append(Trial(case.task.form, prompt.vectors_PD.to(loaded.dtype), examples))
        with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
            engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
            reports = result_of(judge(engine, trials), advance)
        if engine.ties.remark is not None:
            progress.note(engine.ties.remark)
        for case, trial, report in zip(group, trials, reports, strict=True):
            scores = (report.metric, report.value, report.stderr, report.rows, report.loss)
            version, blank = case.version, len(case.rows) - len(case.judged)
            if blank:
                progress.warn(f"{version.ref}: {blank} of {len(case.rows)} rows have a blank input, and are left out")
            cut = (trial.examples.truncated, report.unfinished, blank)
            said = iter(zip(report.predictions, report.values, strict=True))
            each = [(None, None) if case.task.form.is_blank(row) else next(said) for row in case.rows]
            outputs, values = (tuple(column) for column in zip(*each, strict=True))
            evaluations.append(Evaluation(version.task, version.number, version.digest, *scores, *cut, outputs, values))
    return evaluations


def _options(version: Version, task: Task) -> BaseOptions:
    """The base of a version; where the task file names the same one, loaded as the file says. A version that was tuned
    without an adapter gets none."""
    named = task.base_options
    if version.base not in (named.address, str(Path(named.address).resolve())):
        return BaseOptions(source=version.base)
    adapter = named.adapter if "adapter" in version.card.recipe else None
    return BaseOptions(source=version.base, adapter=adapter, trust_remote_code=named.trust_remote_code)
