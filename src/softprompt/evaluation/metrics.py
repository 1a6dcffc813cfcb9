"""Metrics of predictions against answers. All lie between 0 and 1, and more is better. No torch."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from softprompt.errors import ConfigError, nearest


def measure(metric: str, predictions: Sequence[str], answers: Sequence[str]) -> float:
    """The value of a metric over rows.

    Args:
        metric: `accuracy` (equal labels), `f1` (mean of the labels' F1), `exact_match` (equal texts once folded, see
            :func:`fold`) or `token_f1` (overlap of words, as in SQuAD, articles counted).

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


def _exact_match(predictions: Sequence[str], answers: Sequence[str]) -> float:
    return sum(fold(p) == fold(a) for p, a in zip(predictions, answers, strict=True)) / len(answers)


def _token_f1(predictions: Sequence[str], answers: Sequence[str]) -> float:
    return sum(_overlap(_words(p), _words(a)) for p, a in zip(predictions, answers, strict=True)) / len(answers)


def _overlap(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer))


_METRICS = {"accuracy": _accuracy, "f1": _f1, "exact_match": _exact_match, "token_f1": _token_f1}
