"""Kinds of answers beside one label and free text: a set of labels, and a number. How rows say them, how the base is asked
for them, and what its scores or its text say. No torch.

A set is asked label by label: behind an input stands `LABEL: yes` or `LABEL: no`, and the two are scored against each other.
The tokens of the label are the same in both, so their difference is the label's log-odds, whatever other labels there are.
A number is the expectation over ordered labels, or is generated and read from what the base says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from softprompt.rows.values import short, text_of

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""As the config of a Hugging Face classifier says it."""
ONE: ProblemType = "single_label_classification"
SET: ProblemType = "multi_label_classification"
NUMBER: ProblemType = "regression"

OF_SETS = ("micro_f1", "macro_f1", "subset_accuracy")
OF_NUMBERS = ("mae", "spearmanr")
"""Metrics of one kind of answer alone."""
OF_ONE = ("distillation", "unlikelihood", "preference")
"""Objectives that compare whole answers, which a set is not."""

SEPARATOR = ";"
"""Stands between the labels of a set wherever a set is one text."""
SAID = ("yes", "no")
THRESHOLD = 0.5
THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Those that are tried on the validation rows."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_WHOLE = re.compile(_NUMBER)
_WITHIN = re.compile(rf"(?<![\w.,]){_NUMBER}(?![\w]|[.,]\d)")


@dataclass(frozen=True)
class Said:
    """What a prompt says of an input."""

    output: str
    """As one text, which the metric judges: a label, the labels of a set, a number, or what was generated."""
    label: str
    """The likeliest label; of a number over ordered labels the nearest one; else the output."""
    scores: dict[str, float] | None = None
    """Probability of each label: of one of them, or of each by itself where several may hold."""
    labels: tuple[str, ...] | None = None
    """Of a set."""
    value: float | None = None
    """Of a number, within its range; None where none was said."""
    outside: bool = False
    """Whether the number that was said lay outside of the range."""


def join(labels: Sequence[str]) -> str:
    """A set as one text."""
    return f"{SEPARATOR} ".join(labels)


def split(text: str) -> tuple[str, ...]:
    """The labels of a set that is one text."""
    return tuple(part.strip() for part in text.split(SEPARATOR) if part.strip())


def labels_in(value: object, separator: str) -> list[str]:
    """The labels that a row's value names: a list of them, such a list as JSON, or a text with a separator between them; no
    labels for an empty one.

    Raises:
        ValueError: it is missing, or one of its labels is no text.
    """
    given = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1 else value
    if isinstance(given, str) and given.strip().startswith("["):
        try:
            given = json.loads(given)
        except ValueError:
            given = value
    if isinstance(given, list | tuple | set | frozenset):
        return [text_of(one).strip() for one in (sorted(given) if isinstance(given, set | frozenset) else given)]
    return [part.strip() for part in text_of(given).split(separator) if part.strip()]


def statements(labels: Sequence[str]) -> tuple[str, ...]:
    """What is scored for a set: that each label holds, and that it does not, in turn."""
    return tuple(f"{label}: {word}" for label in labels for word in SAID)


def set_of_scores(labels: Sequence[str], scores: Sequence[float], threshold: float) -> Said:
    """The labels that hold, by the scores of their :func:`statements`."""
    chances = {label: sigmoid(yes - no) for label, yes, no in zip(labels, scores[::2], scores[1::2], strict=True)}
    held = tuple(label for label, chance in chances.items() if chance >= threshold)
    return Said(join(held), join(held), chances, held)


def number_of_scores(values: Mapping[str, float], chances: Mapping[str, float]) -> Said:
    """The expectation over ordered labels, by their probabilities."""
    value = math.fsum(values[label] * chance for label, chance in chances.items())
    nearest = min(values, key=lambda label: (abs(values[label] - value), -chances[label]))
    return Said(number_text(value), nearest, dict(chances), value=value)


def number_of_text(text: str, answer: str, bounds: tuple[float, float] | None) -> Said:
    """The number in what was generated; `answer` is the part of it that stands where the answer does."""
    value = number_in(answer)
    if value is None or bounds is None:
        return Said(text, text, value=value)
    kept = min(max(value, bounds[0]), bounds[1])
    return Said(text, text, value=kept, outside=kept != value)


def number_of(text: str) -> float | None:
    """The number that a whole text is; None where it is none, or an infinite one."""
    found = float(text.strip()) if _WHOLE.fullmatch(text.strip()) else math.inf
    return found if math.isfinite(found) else None


def has_fraction(text: str) -> bool:
    """Whether a text is a number that is not whole."""
    value = number_of(text)
    return value is not None and value % 1 != 0


def number_in(text: str) -> float | None:
    """The first number in a text: `4` of `4 of 5`. One with a comma, of which nobody knows what it divides, is none."""
    found = _WITHIN.search(text)
    return number_of(found[0]) if found else None


def number_text(value: float) -> str:
    """A number as answers have it."""
    return f"{value:.6g}"


def farthest(value: float, bounds: tuple[float, float]) -> float:
    """What an answer that is no number counts as: the end of the range that is farther from the right number."""
    low, high = bounds
    if low == high:
        return value + 1  # no number is as good as the right one
    return low if value - low > high - value else high


def values_of(labels: Sequence[str], words: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The number that each of some ordered labels stands for: itself, or what `id2label` has it for; where one of them has
    none, their places, counted from 1."""
    said = {label: given for given, label in words}
    numbers = {
        label: number_of(label) if number_of(label) is not None else number_of(said.get(label, "")) for label in labels
    }
    known = {label: number for label, number in numbers.items() if number is not None}
    return known if len(known) == len(labels) else {label: float(place) for place, label in enumerate(labels, start=1)}


def sigmoid(odds: float) -> float:
    """The probability of log-odds."""
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def check_kind(config: Any) -> None:
    """Refuse keys of a task file that are not of its kind of answers.

    Raises:
        ValueError: with the key, and what it needs.
    """
    kind, labels, metric = config.problem_type, config.labels, config.metric
    if kind in (ONE, SET) and labels is None:
        raise ValueError(f"problem_type: {kind} needs `labels`; list them")
    if metric in OF_SETS and kind != SET:
        raise ValueError(f"metric: {metric} is of sets of labels; say `problem_type: {SET}`, or use accuracy or f1")
    if metric in OF_NUMBERS and kind != NUMBER:
        raise ValueError(f"metric: {metric} is of numbers; say `problem_type: {NUMBER}`, or use another")
    if metric is not None and kind == SET and metric not in OF_SETS:
        raise ValueError(f"metric: {metric} is not of sets of labels; use {', '.join(OF_SETS)}")
    if metric is not None and kind == NUMBER and metric not in OF_NUMBERS:
        raise ValueError(f"metric: {metric} is not of numbers; use {' or '.join(OF_NUMBERS)}")
    if kind == SET and (wrong := next((label for label in labels if SEPARATOR in label), None)) is not None:
        raise ValueError(f"labels: {wrong!r} has a {SEPARATOR!r} in it, which stands between the labels of a set; rename it")
    if kind != SET and (config.threshold is not None or config.label_separator is not None):
        key = "threshold" if config.threshold is not None else "label_separator"
        raise ValueError(f"{key}: only sets of labels have one; say `problem_type: {SET}`, or leave it out")
    if config.label_separator is not None and not config.label_separator.strip():
        raise ValueError("label_separator: it is blank, as words have blanks between them; give a mark such as ';'")
    if config.answer_range is not None:
        if kind != NUMBER or labels is not None:
            raise ValueError(f"answer_range: only generated numbers have one; say `problem_type: {NUMBER}` without `labels`")
        if not config.answer_range[0] < config.answer_range[1]:
            raise ValueError(f"answer_range: {list(config.answer_range)} is none; give the lowest number, then the highest")
    objective = config.objective
    if (kind == SET and objective in OF_ONE) or (kind == NUMBER and objective == "distillation"):
        raise ValueError(f"objective: {objective} is of one label or free text, not of {kind}; use language_modelling")
    if kind == NUMBER and labels is not None:
        _check_numbers(values_of(labels, tuple((config.id2label or {}).items())))
    check_weights(config.class_weights, labels)


def _check_numbers(values: Mapping[str, float]) -> None:
    """Refuse ordered labels of which two are one number, however they are written.

    Raises:
        ValueError: two are.
    """
    seen: dict[float, str] = {}
    for label, value in values.items():
        if (other := seen.setdefault(value, label)) != label:
            raise ValueError(
                f"labels: {other!r} and {label!r} are both the number {number_text(value)}, by which ordered labels are "
                "told apart; keep one of them, which rows may write either way"
            )


def check_weights(weights: object, labels: Sequence[str] | None) -> None:
    """Refuse class weights that are none.

    Raises:
        ValueError: there are no labels, or a weight is of none of them, or not above zero.
    """
    if weights is None:
        return
    if labels is None:
        raise ValueError("class_weights: there are no `labels` to weigh; list them, or leave it out")
    for label, weight in weights.items() if isinstance(weights, Mapping) else ():
        if label not in labels:
            listed = ", ".join(map(repr, labels[:8])) + (", ..." if len(labels) > 8 else "")
            raise ValueError(f"class_weights: {short(label)} is not among `labels` ({listed}); weigh those")
        if weight <= 0:
            raise ValueError(f"class_weights: {label!r} weighs {weight:g}; give a number above 0, or take its rows out")


def check_no_answer(text: str, labels: Sequence[str] | None, kind: ProblemType | None) -> None:
    """Refuse a text for rows without an answer that no row could have.

    Raises:
        ValueError: it is blank or not among the labels, or answers are sets or numbers.
    """
    if kind in (SET, NUMBER):
        raise ValueError(f"no_answer: {kind} has no text for rows without an answer; leave it out")
    if not text.strip():
        raise ValueError("no_answer: this is blank; give a text such as unknown")
    if labels is not None and text not in labels:
        raise ValueError(f"no_answer: {text[:60]!r} is not among `labels`; list it there")


def balanced(counts: Sequence[int]) -> list[float]:
    """Weights with which classes of so many rows count alike, 1 in the mean over rows; 1 for one without rows."""
    total, classes = sum(counts), sum(count > 0 for count in counts)
    return [total / (classes * count) if count else 1.0 for count in counts]


def softmax(scores: Sequence[float]) -> list[float]:
    """Softmax over a few scores, in double precision."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [weight / sum(weights) for weight in weights]


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Log-softmax over a few scores, in double precision."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def mean_scores(scores: Sequence[Sequence[float]]) -> list[float]:
    """Scores of the same labels by several prompts as one: the logarithm of the mean of their distributions. Where one of
    them has no numbers, neither has the mean."""
    if any(math.isnan(score) for own in scores for score in own) or any(max(own) == -math.inf for own in scores):
        return [math.nan] * len(scores[0])
    return [_log_mean(column) for column in zip(*map(log_softmax, scores), strict=True)]


def _log_mean(logs: Sequence[float]) -> float:
    top = max(logs)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))
