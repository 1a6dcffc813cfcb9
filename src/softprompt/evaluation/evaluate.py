"""Judging versions of the library on rows with answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from softprompt.bases.base import BaseLike, FrozenBase, base_of
from softprompt.bases.options import BaseOptions
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.cases import Case, Rows, find_cases
from softprompt.evaluation.trials import Answer, Report, Trial, answer, report_of, result_of
from softprompt.library.library import library_or_current
from softprompt.library.passages import Passages, Sources
from softprompt.model.architecture import architecture_of
from softprompt.progress import Progress, Silent
from softprompt.prompts.prompt import SoftPrompt
from softprompt.registry.records import Record
from softprompt.tasks.answers.kinds import OF_NUMBERS

if TYPE_CHECKING:
    from softprompt.evaluation.answer_file import AnswerFile
    from softprompt.library.library import Library

AT_ONCE = 1024
"""Rows of each prompt that are answered at a time, and kept. What shares a batch has a say in the last bits of a loss, so
these are the same rows whether answers are kept or not, and whether a call goes on or does all of it."""


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
    """Rows that were left out, since nothing stands in any column of their input."""
    outputs: tuple[str | None, ...] = field(default=(), repr=False)
    """What it said to each row; None to a blank one."""
    values: tuple[float | None, ...] = field(default=(), repr=False)
    """What each row counts, of which the value is the mean; for `f1`, which is no mean over rows, whether it is right; None
    of a blank one."""
    unparsable: int = 0
    """Generated answers that are to be numbers and are none."""
    out_of_range: int = 0
    """Generated numbers outside of the range of the answers."""
    others: dict[str, float] = field(default_factory=dict)
    """The other metrics of sets of labels, of numbers, or of answers from passages."""

    def row(self) -> dict[str, Any]:
        """Its fields as a row, without those that have an entry for each row of data, or are of no use to its metric."""
        of_numbers = ("unparsable", "out_of_range") if self.metric not in OF_NUMBERS else ()
        left = ("outputs", "values", "others", *of_numbers)
        return {name: value for name, value in super().row().items() if name not in left} | self.others


def evaluate(
    tasks: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    library: Library | None = None,
    data: Rows | None = None,
    version: str | None = None,
    base: BaseLike = None,
    passages: Sources = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Judge tuned prompts on the test rows of their task files, or on the rows of one file of your own; an evaluation for
    each of `tasks`, in their order.

    Args:
        tasks: task files; with `data`, tasks of the library, each as TASK, TASK@N or TASK@ALIAS.
        library: by default the one in the current home.
        data: rows with answers: a file (.jsonl, .csv, .parquet ...), or the rows themselves.
        version: number or alias to judge where `tasks` name none; by default production, else the newest.
        base: a base that is loaded already, or how to load one; where nothing is said, as versions and task files name it.
        passages: what finds passages for inputs: a folder of texts or a Python function, for all tasks that look them up or
            for each by its name; by default as task files say, else the folder that a prompt was tuned with.

    Raises:
        ConfigError: a task file is wrong; or a version, made elsewhere, has a form that is not known here.
        NotFound: a task has no such version.
        BaseModelError: the base is not where it is said to be, or cannot be loaded.
        FingerprintMismatch: a version was made for another base.
        DataError: the rows are wrong.
    """
    with library_or_current(library) as opened:
        shown = progress or Silent()
        cases = find_cases(tasks, opened, data, version, Passages(passages, shown.warn))
        return judge_cases(opened, cases, base, shown)


def judge_cases(
    library: Library, cases: Sequence[Case], base: BaseLike, progress: Progress, file: AnswerFile | None = None
) -> list[Evaluation]:
    """Judge versions that are found already; those of one base together, and told in the order given. See
    :func:`evaluate`.

    Args:
        file: keeps what a single case's rows are answered as it goes, and what it has already is not asked again.
    """
    groups: dict[BaseOptions, list[int]] = {}
    for place, case in enumerate(cases):
        for remark in (*case.remarks, *case.source.remarks_on_inputs(case.task.form)):
            progress.warn(remark)
        options = case.named if isinstance(base, FrozenBase) else case.options(BaseOptions.of(base))
        groups.setdefault(options, []).append(place)
    evaluations: dict[int, Evaluation] = {}
    for options, places in groups.items():
        loaded = base_of(base, options, progress)
        trials, group = [], [cases[place] for place in places]
        for case in group:
            prompt = SoftPrompt.from_bytes(library.read(case.version), digest=case.version.digest)
            prompt.check_base(loaded)
            examples = case.task.encode(loaded, case.rows, prompt.columns, split="test")
            trials.append(Trial(case.task.form, prompt.rows_PD.to(loaded.dtype), examples, prompt.card.members))
        engine = OfflineEngine(architecture_of(loaded), warn=progress.warn)
        reports = _judge(engine, trials, progress, file)
        if engine.ties.remark is not None:
            progress.note(engine.ties.remark)
        for place, case, trial, report in zip(places, group, trials, reports, strict=True):
            scores = (report.metric, report.value, report.stderr, report.rows, report.loss)
            cut, version = (trial.examples.truncated, report.unfinished, case.source.blank), case.version
            for remark in report.remarks(version.ref):
                progress.warn(remark)
            said = iter(zip(report.predictions, report.values, strict=True))
            answers = [(None, None) if case.task.form.is_blank(row) else next(said) for row in case.given]
            each = (tuple(output for output, _ in answers), tuple(value for _, value in answers))
            evaluations[place] = Evaluation(
                version.task,
                version.number,
                version.digest,
                *scores,
                *cut,
                *each,
                unparsable=report.unparsable,
                out_of_range=report.outside,
                others=report.others,
            )
    return [evaluations[place] for place in range(len(cases))]


def _judge(engine: OfflineEngine, trials: Sequence[Trial], progress: Progress, file: AnswerFile | None) -> list[Report]:
    answers = answer_all(engine, trials, progress, file)
    return [report_of(trial, own) for trial, own in zip(trials, answers, strict=True)]


def answer_all(
    engine: OfflineEngine, trials: Sequence[Trial], progress: Progress, file: AnswerFile | None = None
) -> list[list[Answer]]:
    """The answers of each trial, :data:`AT_ONCE` rows of each at a time."""
    kept = [Answer.of_row(row) for row in file.answers] if file is not None else []
    answers: list[list[Answer]] = [[] for _ in trials]
    rows = max(len(trial.examples) for trial in trials)
    if kept:
        progress.note(f"{len(kept)} of {rows} rows are answered already; the others are answered now")
    with progress.stage("judge", sum(len(trial.examples) for trial in trials)) as advance:
        for start in range(0, rows, AT_ONCE):
            end = min(start + AT_ONCE, rows)
            if len(kept) >= end:
                found = [kept[start:end]]
                advance(end - start, "")
            else:
                parts = [replace(trial, examples=trial.examples.part(start, end)) for trial in trials]
                found = result_of(answer(engine, parts), advance)
                if file is not None:
                    file.add([one.row() for one in found[0][max(0, len(kept) - start) :]])
            for own, some in zip(answers, found, strict=True):
                own += some
    return answers
