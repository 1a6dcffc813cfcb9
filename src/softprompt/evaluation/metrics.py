"""Metrics of predictions against answers, and their standard errors. All lie between 0 and 1; more is better. No torch."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from softprompt.errors import ConfigError, nearest

TOP = 1.0
"""The best that any metric can be."""


class Score(NamedTuple):
    """A metric over rows."""

    value: float
    stderr: float
    """Its standard error: how far the value of as many other rows would lie from this one, by the spread of these."""


def measure(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> float:
    """The value of a metric over rows.

    Args:
        metric: `accuracy` (equal labels), `f1` (mean of the labels' F1), `exact_match` (equal texts once folded, see
            :func:`fold`) or `token_f1` (overlap of words, as in SQuAD, articles counted).

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
    if metric not in _OF_ROWS:
        raise ConfigError(f"metric {metric!r} is unknown{nearest(metric, METRICS)}")
    values = [_OF_ROWS[metric](p, a) for p, a in zip(predictions, answers, strict=True)]
    value = sum(values) / len(values)
    return Score(value, math.sqrt(math.fsum((one - value) ** 2 for one in values)) / len(values))


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


def fold(text: str) -> str:
    """Text without what carries no meaning: case, the space between words, an article before the first of them, and the
    punctuation around words (marks that end sentences or clauses, quotes and brackets in pairs).

    What stands inside a word or makes a number or a name is kept: 3.5, -4, $5, C++, #1. A text of nothing else than
    punctuation is kept too.
    """
    return " ".join(_words(text, _ARTICLES))


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
    predicted, expected = _words(prediction), _words(answer)
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


_OF_ROWS: dict[str, Callable[[str, str], float]] = {
    "accuracy": lambda prediction, answer: float(prediction == answer),
    "exact_match": lambda prediction, answer: float(fold(prediction) == fold(answer)),
    "token_f1": _overlap,
}
"""Metrics that are means over rows: what a row counts, by its prediction and its answer."""

METRICS = (*_OF_ROWS, "f1")
