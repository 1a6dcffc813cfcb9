"""Judging prompts: predictions of many prompts in mixed batches, and their scores."""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.engines.continuation import text_behind
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.ensembles import score_members
from softprompt.evaluation.metrics import abstaining, groundedness, measure, row_values, score
from softprompt.evaluation.reference import confidence_of
from softprompt.evaluation.statistics.calibration import fit_temperature
from softprompt.model.splice import with_front
from softprompt.progress import Advance
from softprompt.prompts.card import goodness
from softprompt.prompts.prompt import members_of
from softprompt.tasks.answers.kinds import OF_NUMBERS, OF_SETS, THRESHOLD, THRESHOLDS, join
from softprompt.tasks.answers.schema import grammar_of
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(frozen=True)
class Trial:
    """A prompt and the rows it is judged on."""

    form: Form
    vectors_PD: Tensor
    """P x D; 0 x D for no prompt; of an ensemble all members' end to end."""
    examples: Examples
    members: tuple[int, ...] = ()
    """Of an ensemble, the length of each member."""
    keeps_chances: bool = False
    """Whether answers tell the probability of each label where they are no sets, too."""


@dataclass(frozen=True)
class Report:
    """What came of a trial."""

    metric: str
    value: float
    rows: int
    loss: float
    """Mean negative log-probability of the right label among the labels; of a token of the answer, its end among them, where
    a task generates."""
    predictions: list[str]
    stderr: float = math.nan
    """Standard error of the value."""
    unfinished: int = 0
    """Generated answers that ran into max_new_tokens."""
    values: tuple[float, ...] = ()
    """What each row counts, of which the value is the mean."""
    others: dict[str, float] = field(default_factory=dict)
    """The other metrics of its kind of answers."""
    unparsable: int = 0
    """Generated answers that are to be numbers and are none."""
    outside: int = 0
    """Generated numbers outside of the range, which count as the end of it."""
    threshold: float | None = None
    """The one that was found on these rows."""
    confidences: tuple[float, ...] = ()
    """How sure each answer is; none where answers have no probabilities."""
    temperature: float | None = None
    """The one that calibrates the probabilities of one label among several on these rows."""

    def remarks(self, whose: str) -> list[str]:
        """What to know of generated numbers before their score is believed."""
        return remarks_on_numbers(whose, self.rows, self.unparsable, self.outside)

    def better_than(self, other: Report | None) -> bool:
        """By the metric; of equal values by the lower loss; of equal losses this one is better: the later. A loss that is no
        number is the worst."""
        if other is None or self.value != other.value:
            return other is None or goodness(self.metric, self.value) > goodness(self.metric, other.value)
        return self.loss <= other.loss or math.isnan(other.loss)


class Answer(NamedTuple):
    """What a prompt makes of a row."""

    said: str
    loss: float
    """Negative log-probability of the right label among the labels, or of the right answer, its end among it."""
    unfinished: bool
    """Whether a generated answer ran into `max_new_tokens`."""
    chances: tuple[float, ...] = ()
    """Of a set, and where the trial keeps them, the probability of each label; not kept in a row."""
    confidence: float = math.nan
    """How sure it is; not kept in a row."""

    def row(self) -> dict[str, Any]:
        """Its fields in the types of JSON, from which :meth:`of_row` makes it again to the last bit."""
        return {"said": self.said, "loss": self.loss.hex(), "unfinished": self.unfinished}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Answer:
        """The answer that a row is of."""
        return cls(row["said"], float.fromhex(row["loss"]), row["unfinished"])


def remarks_on_numbers(whose: str, rows: int, unparsable: int, outside: int) -> list[str]:
    """A remark on the answers that are to be numbers and are none, and one on those outside of their range; none on none."""
    told = ((unparsable, "are no numbers"), (outside, "lie outside of their range"))
    return [f"{whose}: {count} of {rows} answers {what}" for count, what in told if count]


def judge(engine: OfflineEngine, trials: Sequence[Trial]) -> Generator[int, None, list[Report]]:
    """Judge all trials, as :func:`answer` answers them. Yields the number of rows just done, and returns a report for each
    trial."""
    answers = yield from answer(engine, trials)
    return [report_of(trial, own) for trial, own in zip(trials, answers, strict=True)]


def answer(engine: OfflineEngine, trials: Sequence[Trial]) -> Generator[int, None, list[list[Answer]]]:
    """Answer the rows of all trials, mixed in shared batches: one pass for tasks with labels, two for those that generate:
    one for the loss of the right answers, one for what is generated.

    Yields the number of rows just done, and returns the answers of each trial.
    """
    base = engine.architecture.base
    predictions: list[list[str]] = [[""] * len(trial.examples) for trial in trials]
    chances: list[list[tuple[float, ...]]] = [[()] * len(trial.examples) for trial in trials]
    sure = [[math.nan] * len(trial.examples) for trial in trials]
    losses: list[list[float]] = [[] for _ in trials]
    members, owner = placed_prompts(base, trials)
    prompts = [own[0] for own in members]
    labelled = [(t, row) for t, trial in enumerate(trials) if trial.form.labels for row in range(len(trial.examples))]
    texts = [(t, row) for t, trial in enumerate(trials) if not trial.form.labels for row in range(len(trial.examples))]
    label_ids = {t: trials[t].form.encode_labels(base) for t in {t for t, _ in labelled}}
    scores = yield from score_members(
        engine,
        members,
        [owner[t][row] for t, row in labelled],
        [trials[t].examples.inputs[row] for t, row in labelled],
        [label_ids[t] for t, _ in labelled],
        [trials[t].form for t, _ in labelled],
    )
    for (t, row), scored in zip(labelled, scores, strict=True):
        form, said = trials[t].form, trials[t].form.of_scores(scored)
        predictions[t][row] = said.output
        losses[t].append(form.loss(scored, trials[t].examples.right(row)))
        chances[t][row] = tuple((said.scores or {}).values()) if form.is_set or trials[t].keeps_chances else ()
        sure[t][row] = confidence_of(form, said.scores)
    answered = yield from _uncounted(
        engine.score(
            prompts,
            [owner[t][row] for t, row in texts],
            [trials[t].examples.inputs[row] for t, row in texts],
            [(tuple(trials[t].examples.targets[row]),) for t, row in texts],
        )
    )
    for (t, _), (likelihood,) in zip(texts, answered, strict=True):
        losses[t].append(-likelihood)
    grammars = {t: grammar_of(trials[t].form, base) for t in {t for t, _ in texts}}
    generated = yield from engine.generate(
        prompts,
        [owner[t][row] for t, row in texts],
        [trials[t].examples.inputs[row] for t, row in texts],
        [trials[t].form.max_new_tokens for t, _ in texts],
        grammars=[grammars[t] for t, _ in texts],
    )
    unfinished = [[False] * len(trial.examples) for trial in trials]
    for (t, row), ids in zip(texts, generated, strict=True):
        predictions[t][row] = text_behind(base.spelling, trials[t].examples.inputs[row], ids).strip()
        grammar = grammars[t]
        ended = grammar is not None and grammar.accepts(ids)
        unfinished[t][row] = len(ids) >= trials[t].form.max_new_tokens and not ended
    whole = zip(predictions, losses, unfinished, chances, sure, strict=True)
    return [[Answer(*each) for each in zip(*own, strict=True)] for own in whole]


def placed_prompts(base: FrozenBase, trials: Sequence[Trial]) -> tuple[list[list[Tensor]], list[list[int]]]:
    """The prompts of trials, the members of each (one where it is no ensemble) behind what stands before them, and which of
    them each row of each trial has: rows of a trial share one where the same stands before theirs."""
    prompts: list[list[Tensor]] = []
    owner: list[list[int]] = []
    for trial in trials:
        places: dict[tuple[int, ...], int] = {}
        own = []
        for row in range(len(trial.examples)):
            front = tuple(trial.examples.front(row))
            if front not in places:
                places[front] = len(prompts)
                members = members_of(trial.vectors_PD, trial.members)
                prompts.append([with_front(base, front, member_PD) for member_PD in members])
            own.append(places[front])
        owner.append(own)
    return prompts, owner


def _uncounted(generator: Generator[int, None, R]) -> Generator[int, None, R]:
    """A pass over rows that are counted in another."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            result: R = end.value
            return result
        yield 0


def report_of(trial: Trial, given: Sequence[Answer]) -> Report:
    """The scores of a trial by its answers, row by row."""
    form, predictions = trial.form, [one.said for one in given]
    said, answers = form.judged(predictions, trial.examples.answers)
    value, stderr = score(form.metric, said, answers)
    tokens = len(answers) if form.labels else sum(map(len, trial.examples.targets))
    loss, values = sum(one.loss for one in given) / tokens, tuple(row_values(form.metric, said, answers))
    unfinished = sum(one.unfinished for one in given)
    kinds = OF_SETS if form.is_set else OF_NUMBERS if form.is_number else ()
    others = {name: measure(name, said, answers) for name in kinds if name != form.metric}
    if form.no_answer is not None:
        others |= abstaining(said, answers, form.no_answer)
    if trial.examples.passages:
        others |= groundedness(said, trial.examples.passages, form.no_answer)
    counts = form.count_astray(predictions)
    sure = tuple(one.confidence for one in given if not math.isnan(one.confidence))
    own = (stderr, unfinished, values, others, *counts)
    return Report(form.metric, value, len(answers), loss, predictions, *own, confidences=sure)


def report_tuned(trial: Trial, given: Sequence[Answer], *, fixed: bool) -> Report:
    """The same of validation rows: where no threshold of sets is `fixed`, with the one that does best on these rows, of
    equal ones the nearest to a half; of one label among several with the temperature that fits, where chances are kept."""
    form = trial.form
    if form.chooses and trial.keeps_chances:
        right = [trial.examples.right(row)[0] for row in range(len(given))]
        found = report_of(trial, given)
        return replace(found, temperature=fit_temperature([one.chances for one in given], right))
    if fixed or not form.is_set:
        return report_of(trial, given)
    texts, labels = trial.examples.answers, form.labels or ()

    def told(threshold: float) -> list[str]:
        return [
            join([label for label, chance in zip(labels, one.chances, strict=True) if chance >= threshold]) for one in given
        ]

    best = max(THRESHOLDS, key=lambda one: (measure(form.metric, told(one), texts), -abs(one - THRESHOLD)))
    found = report_of(trial, [one._replace(said=said) for one, said in zip(given, told(best), strict=True)])
    return replace(found, threshold=best)


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
