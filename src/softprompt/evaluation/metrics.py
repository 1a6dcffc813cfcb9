"""Metrics of predictions against answers, and their standard errors. All but those of numbers lie between 0 and 1; more is
better of all but `mae`. No torch."""

from __future__ import annotations

import bisect
import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from softprompt.errors import ConfigError, nearest
from softprompt.tasks.answers.kinds import split
from softprompt.text import parts_of


class Score(NamedTuple):
    """A metric over rows."""

    value: float
    stderr: float
    """Its standard error: how far the value of as many other rows would lie from this one, by the spread of these."""


def measure(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> float:
    """The value of a metric over rows.

    Args:
        metric: `accuracy` (equal labels), `f1` (mean of the labels' F1), `exact_match` (equal texts once folded, see
            :func:`fold`) or `token_f1` (overlap of words, as in SQuAD, articles counted); of sets of labels `micro_f1`,
            `macro_f1` (mean over the labels that are predicted or right somewhere) or `subset_accuracy` (equal sets); of
            numbers `mae` (mean absolute error) or `spearmanr` (rank correlation; 0 where one side has one value alone).

    Raises:
        ConfigError: another metric, as prompts made elsewhere may have.
    """
    return score(metric, predictions, answers).value


def score(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> Score:
    """The value of a metric over rows, at least one, and its standard error.

    For a mean over rows it is their standard deviation over the root of their number; where a row counts 0 or 1 that is the
    binomial one, the root of `p (1 - p) / n`. `f1` is no mean over rows: there it is the jackknife's, by the values that are
    left when each row in turn is left out.

    Raises:
        ConfigError: another metric, as prompts made elsewhere may have.
    """
    if metric == "f1":
        return _macro_f1(predictions, answers)
    if metric in ("micro_f1", "macro_f1"):
        return _f1_of_sets(predictions, answers, micro=metric == "micro_f1")
    if metric == "spearmanr":
        return _rank_correlation(predictions, answers)
    if metric not in _OF_ROWS:
        raise ConfigError(f"metric {metric!r} is unknown{nearest(metric, METRICS)}")
    values = row_values(metric, predictions, answers)
    value = sum(values) / len(values)
    return Score(value, math.sqrt(math.fsum((one - value) ** 2 for one in values)) / len(values))


def row_values(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> list[float]:
    """What each row counts, of which a metric is the mean. For an F1, which is no mean over rows, whether it is right; for
    `spearmanr`, which is none either, its absolute error."""
    of_row = _OF_ROWS[_INSTEAD.get(metric, metric)]
    return [of_row(prediction, answer) for prediction, answer in zip(predictions, answers, strict=True)]


OF_PASSAGES = ("no_answer_precision", "no_answer_recall", "no_answer_f1", "groundedness")
"""What :func:`abstaining` and :func:`groundedness` find."""


def abstaining(predictions: Sequence[str], answers: Sequence[str], no_answer: str) -> dict[str, float]:
    """How well rows without an answer are told: precision, recall and F1 of saying `no_answer`, texts compared once folded.
    What has nothing to count is left out: the precision where it is never said, the recall where every row has an answer."""
    said, right = ([fold(text) == fold(no_answer) for text in texts] for texts in (predictions, answers))
    both = sum(one and other for one, other in zip(said, right, strict=True))
    counts = {"precision": (both, sum(said)), "recall": (both, sum(right)), "f1": (2 * both, sum(said) + sum(right))}
    return {f"no_answer_{name}": part / whole for name, (part, whole) in counts.items() if whole}


def groundedness(predictions: Sequence[str], passages: Sequence[str], no_answer: str | None = None) -> dict[str, float]:
    """The share of the answers whose words all stand in the passages of their row, of those that say something else than
    `no_answer`; nothing where there are none."""
    none = fold(no_answer) if no_answer is not None else ""
    said = [
        (words, text)
        for one, text in zip(predictions, passages, strict=True)
        if (words := _parts(one)) and fold(one) != none
    ]
    return {"groundedness": sum({*words} <= {*_parts(text)} for words, text in said) / len(said)} if said else {}


def _macro_f1(predictions: Sequence[str], answers: Sequence[str]) -> Score:
    pairs = Counter(zip(predictions, answers, strict=True))
    right, named = Counter[str](), Counter[str]()  # how often a label is right; predicted, and an answer
    for (predicted, answer), count in pairs.items():
        right[answer] += count * (predicted == answer)
        named[predicted] += count
        named[answer] += count
    shares = {label: 2 * right[label] / total for label, total in named.items()}
    summed, n = math.fsum(shares.values()), pairs.total()
    value = summed / len(shares)
    if n == 1:
        return Score(value, 0.0)
    without = [(_f1_without(pair, right, named, shares, summed), count) for pair, count in pairs.items()]
    mean = math.fsum(left * count for left, count in without) / n
    return Score(value, math.sqrt(math.fsum(count * (left - mean) ** 2 for left, count in without) * (n - 1) / n))


def _f1_without(
    pair: tuple[str, str], right: Counter[str], named: Counter[str], shares: Mapping[str, float], summed: float
) -> float:
    """The mean of the labels' F1 once a row with this prediction and answer is left out: only its own labels change."""
    labels = len(shares)
    for label, count in Counter(pair).items():
        summed -= shares[label]
        if left := named[label] - count:
            summed += 2 * (right[label] - (count == 2)) / left
        else:
            labels -= 1
    return summed / labels


def _f1_of_sets(predictions: Sequence[str], answers: Sequence[str], *, micro: bool) -> Score:
    rows = [(split(said), split(right)) for said, right in zip(predictions, answers, strict=True)]
    hits, named = Counter[str](), Counter[str]()
    for said, right in rows:
        hits.update({*said} & {*right})
        named.update((*said, *right))

    def value(hits: Counter[str], named: Counter[str]) -> float:
        if micro:
            return 2 * hits.total() / named.total() if named.total() else 1.0
        shares = [2 * hits[label] / count for label, count in named.items() if count]
        return math.fsum(shares) / len(shares) if shares else 1.0

    whole, n = value(hits, named), len(rows)
    if n == 1:
        return Score(whole, 0.0)
    without = []
    for (said, right), count in Counter(rows).items():
        both, some = Counter({*said} & {*right}), Counter((*said, *right))
        hits.subtract(both)
        named.subtract(some)
        without.append((value(hits, named), count))
        hits.update(both)
        named.update(some)
    mean = math.fsum(left * count for left, count in without) / n
    return Score(whole, math.sqrt(math.fsum(count * (left - mean) ** 2 for left, count in without) * (n - 1) / n))


def _rank_correlation(predictions: Sequence[str], answers: Sequence[str]) -> Score:
    """Spearman's, with the standard error of Bonett and Wright (2000)."""
    said, right = _ranks([float(text) for text in predictions]), _ranks([float(text) for text in answers])
    if len(set(said)) < 2 or len(set(right)) < 2:
        return Score(0.0, 0.0)
    value = min(1.0, max(-1.0, statistics.correlation(said, right)))
    return Score(value, (1 - value**2) * math.sqrt((1 + value**2 / 2) / max(1, len(said) - 3)))


def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value in their order, of equal ones the mean of theirs."""
    order = sorted(values)
    return [(bisect.bisect_left(order, value) + bisect.bisect_right(order, value)) / 2 for value in values]


def fold(text: str) -> str:
    """Text without what carries no meaning: case, the space between words, an article before the first of them, and the
    punctuation around words (marks that end sentences or clauses, quotes and brackets in pairs).

    What stands inside a word or makes a number or a name is kept: 3.5, -4, $5, C++, #1. A text of nothing else than
    punctuation is kept too.
    """
    return " ".join(_words(text, _ARTICLES))


def _parts(text: str) -> list[str]:
    """The words of a text as they are compared one by one."""
    return [part for word in _words(text) for part in parts_of(word)]


def _words(text: str, articles: Sequence[str] = ()) -> list[str]:
    """The words of a text without what :func:`fold` leaves out, and without these articles before the first."""
    plain = unicodedata.normalize("NFC", text)
    while (folded := unicodedata.normalize("NFC", plain.casefold())) != plain:
        plain = folded
    words = plain.split()
    while True:  # what goes can lay bare what goes too
        bare = [found for word in _bare(" ".join(words)).split() if (found := _bare(word))]
        if len(bare) > 1 and bare[0] in articles:
            bare = bare[1:]
        if not bare or bare == words:
            return words
        words = bare


def _bare(text: str) -> str:
    """A word or a whole text without the punctuation around it."""
    while text:
        if text[-1] in _ENDS:
            text = text[:-1].rstrip()
        elif text[0] in _BEGINS:
            text = text[1:].lstrip()
        elif text[0] + text[-1] in _PAIRS and not {text[0], text[-1]} & set(text[1:-1]):
            text = text[1:-1].strip()
        else:
            break
    return text


_ARTICLES = ("a", "an", "the")
_BEGINS, _ENDS = "¿¡", ".,;:!?…。、！？"
_PAIRS = ("()", "[]", "{}", '""', "''", "``", "“”", "‘’", "«»", "„“")


def _overlap(prediction: str, answer: str) -> float:
    predicted, expected = _parts(prediction), _parts(answer)
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


_OF_ROWS: dict[str, Callable[[str, str], float]] = {
    "accuracy": lambda prediction, answer: float(prediction == answer),
    "exact_match": lambda prediction, answer: float(fold(prediction) == fold(answer)),
    "token_f1": _overlap,
    "subset_accuracy": lambda prediction, answer: float(split(prediction) == split(answer)),
    "mae": lambda prediction, answer: abs(float(prediction) - float(answer)),
}
"""Metrics that are means over rows: what a row counts, by its prediction and its answer."""

_INSTEAD = {"f1": "accuracy", "micro_f1": "subset_accuracy", "macro_f1": "subset_accuracy", "spearmanr": "mae"}
"""Metrics that are no means over rows, and what a row counts of another."""

METRICS = (*_OF_ROWS, *_INSTEAD)
