"""Metrics of predictions against answers. All lie between 0 and 1, and more is better. No torch."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from softprompt.errors import ConfigError, nearest


def measure(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> float:
    """The value of a metric over rows.

    Args:
        metric: `accuracy` (equal labels), `f1` (mean of the labels' F1), `exact_match` (equal texts after folding case,
            punctuation and space) or `token_f1` (overlap of words, as in SQuAD).

    Raises:
        ConfigError: another metric, as prompts made elsewhere may have.
    """
    if metric not in _METRICS:
        raise ConfigError(f"metric {metric!r} is unknown{nearest(metric, _METRICS)}")
    return _METRICS[metric](predictions, answers)


def _accuracy(predictions: Sequence[str], answers: Sequence[str]) -> float:
    return sum(p == a for p, a in zip(predictions, answers, strict=True)) / len(answers)


def _f1(predictions: Sequence[str], answers: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(list(answers), list(predictions), average="macro", zero_division=0))


def fold(text: str) -> str:
    """Text in lower case, without punctuation, spaces folded."""
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", kept).strip()


def _exact_match(predictions: Sequence[str], answers: Sequence[str]) -> float:
    return sum(fold(p) == fold(a) for p, a in zip(predictions, answers, strict=True)) / len(answers)


def _token_f1(predictions: Sequence[str], answers: Sequence[str]) -> float:
    return sum(_overlap(fold(p).split(), fold(a).split()) for p, a in zip(predictions, answers, strict=True)) / len(answers)


def _overlap(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer))


_METRICS = {"accuracy": _accuracy, "f1": _f1, "exact_match": _exact_match, "token_f1": _token_f1}
