"""Judging prompts: predictions of many prompts in mixed batches, and their scores."""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.metrics import measure
from softprompt.progress import Advance
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True)
class Trial:
    """A prompt and the rows it is judged on."""

    form: Form
    vectors_PD: Tensor
    """P x D; 0 x D for no prompt."""
    examples: Examples


@dataclass(frozen=True)
class Report:
    """What came of a trial."""

    metric: str
    value: float
    rows: int
    loss: float
    """Mean negative log-probability of the right label among the labels; NaN for tasks that generate."""
    predictions: list[str]

    def better_than(self, other: Report | None) -> bool:
        """By the metric, then by the loss."""
        if other is None or self.value != other.value:
            return other is None or self.value > other.value
        return self.loss < other.loss


def judge(engine: OfflineEngine, trials: Sequence[Trial]) -> Generator[int, None, list[Report]]:
    """Judge all trials, their rows mixed in shared batches: one pass for tasks with labels, one for those that generate.

    Yields the number of rows just done, and returns a report for each trial.
    """
    base = engine.architecture.base
    predictions: list[list[str]] = [[""] * len(trial.examples) for trial in trials]
    losses: list[list[float]] = [[] for _ in trials]
    prompts = [trial.vectors_PD for trial in trials]
    labelled = [(t, row) for t, trial in enumerate(trials) if trial.form.labels for row in range(len(trial.examples))]
    texts = [(t, row) for t, trial in enumerate(trials) if not trial.form.labels for row in range(len(trial.examples))]
    label_ids = {t: trials[t].form.encode_labels(base) for t in {t for t, _ in labelled}}
    scores = yield from engine.score(
        prompts,
        [t for t, _ in labelled],
        [trials[t].examples.inputs[row] for t, row in labelled],
        [label_ids[t] for t, _ in labelled],
    )
    for (t, row), scored in zip(labelled, scores, strict=True):
        labels = trials[t].form.labels or ()
        predictions[t][row] = labels[max(range(len(scored)), key=scored.__getitem__)]
        losses[t].append(-log_softmax(scored)[trials[t].examples.choices[row]])
    generated = yield from engine.generate(
        prompts,
        [t for t, _ in texts],
        [trials[t].examples.inputs[row] for t, row in texts],
        [trials[t].form.max_new_tokens for t, _ in texts],
    )
    for (t, row), ids in zip(texts, generated, strict=True):
        predictions[t][row] = text_behind(base.spelling, trials[t].examples.inputs[row], ids).strip()
    return [
        Report(
            metric=trial.form.metric,
            value=measure(trial.form.metric, predicted, trial.examples.answers),
            rows=len(trial.examples),
            loss=sum(lost) / len(lost) if lost else math.nan,
            predictions=predicted,
        )
        for trial, predicted, lost in zip(trials, predictions, losses, strict=True)
    ]


def judge_apart(
    engine: OfflineEngine, trials: Mapping[K, Sequence[Trial]]
) -> Generator[int, None, dict[K, list[Report] | Exception]]:
    """Judge the trials of several owners as :func:`judge` does; where that fails, those of each owner alone, so that a
    fault is its owner's. Yields numbers of rows; an owner at fault gets its error."""
    try:
        reports = iter((yield from judge(engine, [trial for own in trials.values() for trial in own])))
    except Exception as error:
        if len(trials) == 1:
            return dict.fromkeys(trials, error)
        apart: dict[K, list[Report] | Exception] = {}
        for owner, own in trials.items():
            apart |= yield from judge_apart(engine, {owner: own})
        return apart
    return {owner: [next(reports) for _ in own] for owner, own in trials.items()}


def result_of(generator: Generator[int, None, R], advance: Advance = lambda done, text: None) -> R:
    """What a generator of numbers of rows returns, run to its end; `advance` is called with each number."""
    while True:
        try:
            advance(next(generator), "")
        except StopIteration as end:
            result: R = end.value
            return result


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Log-softmax over a few scores, in double precision."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]
