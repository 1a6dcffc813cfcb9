"""Metrics of suites beside those of tasks, and for every metric what each row counts, even where it is no mean over rows.

Such a metric (an F1 over labels, BLEU, perplexity, calibration) is a function of sums over rows. What a row counts is then
its pseudo-value, as the jackknife has it: n times the metric of all rows less n - 1 times that of the others, moved so that
their mean is the metric. So two versions' rows can be paired in each metric alike. No torch.
"""

from __future__ import annotations

import json
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softprompt.evaluation.metrics import METRICS, row_values, score
from softprompt.prompts.card import LOWER_IS_BETTER
from softprompt.tasks.answers.kinds import split
from softprompt.text import parts_of, words_of

if TYPE_CHECKING:
    import numpy as np

    Sums = np.ndarray[Any, Any]

LOWER = (*LOWER_IS_BETTER, "ece", "moved")
"""Of what suites find, that of which less is better."""


@dataclass(frozen=True)
class Measured:
    """A metric over rows."""

    value: float
    stderr: float
    values: tuple[float, ...]
    """What each row counts; their mean is the value."""

    @classmethod
    def mean(cls, values: Sequence[float]) -> Measured:
        """Of a metric that is the mean of what rows count."""
        value = math.fsum(values) / len(values)
        spread = math.sqrt(math.fsum((one - value) ** 2 for one in values)) / len(values)
        return cls(value, spread, tuple(values))


def measure_rows(metric: str, said: Sequence[str], right: Sequence[str]) -> Measured:
    """A metric of answers against the right ones, at least one; those of tasks have the value of `evaluate`."""
    if metric == "bleu":
        return jackknife([bleu_counts(one, other) for one, other in zip(said, right, strict=True)], _bleu)
    if metric in OF_TEXTS:
        of_row = OF_TEXTS[metric]
        return Measured.mean([of_row(one, other) for one, other in zip(said, right, strict=True)])
    value, stderr = score(metric, said, right)
    if metric not in _OF_SUMS:
        return Measured(value, stderr, tuple(row_values(metric, said, right)))
    rows, of = _OF_SUMS[metric](said, right)
    found = jackknife(rows, of)
    return Measured(value, stderr, tuple(one - found.value + value for one in found.values))


def jackknife(rows: Sequence[Sequence[float]], of: Callable[[Sums], Sums]) -> Measured:
    """A metric that is a function of sums over rows, of the last axis of an array."""
    import numpy as np

    each = np.asarray(rows, dtype=float)
    whole = each.sum(axis=0)
    value, count = float(of(whole)), len(each)
    if count == 1:
        return Measured(value, 0.0, (value,))
    without = of(whole - each)
    apart = count * value - (count - 1) * without
    values = apart - apart.mean() + value
    stderr = math.sqrt(float(((without - without.mean()) ** 2).sum()) * (count - 1) / count)
    return Measured(value, stderr, tuple(map(float, values)))


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> Measured:
    """The exponential of the loss of a token of the right answers, by each row's summed loss and number of tokens."""
    import numpy as np

    return jackknife(
        list(zip(losses, tokens, strict=True)), lambda sums: np.exp(np.minimum(sums[..., 0] / sums[..., 1], 700.0))
    )


@dataclass(frozen=True)
class Calibration:
    """How far confidence is from being right."""

    error: Measured
    """Expected calibration error: the mean over rows of how far the confidence of their bin is from its accuracy."""
    bins: tuple[dict[str, float], ...]
    """`from`, `to`, `rows`, and the mean `confidence` and `accuracy`, of those with rows."""


def calibrate(confidences: Sequence[float], right: Sequence[bool], bins: int) -> Calibration:
    """Expected calibration error over bins of equal width (Guo et al. 2017), and the bins."""
    import numpy as np

    places = [min(int(one * bins), bins - 1) for one in confidences]
    each = np.zeros((len(places), 2 * bins + 1))
    for row, (place, confidence, hit) in enumerate(zip(places, confidences, right, strict=True)):
        each[row, 2 * place : 2 * place + 2] = confidence, hit
    each[:, -1] = 1
    counts = Counter(places)
    table = tuple(
        {
            "from": place / bins,
            "to": (place + 1) / bins,
            "rows": counts[place],
            "confidence": float(each[:, 2 * place].sum()) / counts[place],
            "accuracy": float(each[:, 2 * place + 1].sum()) / counts[place],
        }
        for place in sorted(counts)
    )

    def error(sums: Sums) -> Sums:
        apart: Sums = np.abs(sums[..., 0:-1:2] - sums[..., 1:-1:2]).sum(axis=-1) / sums[..., -1]
        return apart

    return Calibration(jackknife(each.tolist(), error), table)


# Of two texts


def span_f1(said: str, right: str) -> float:
    """F1 of the words of a span, as SQuAD counts it: case, punctuation and articles count for nothing."""
    one, other = (_squad(text) for text in (said, right))
    return _f1(Counter(one), Counter(other)) if one and other else float(one == other)


def _squad(text: str) -> list[str]:
    plain = "".join(letter for letter in unicodedata.normalize("NFC", text.lower()) if letter not in _PUNCTUATION)
    return [part for word in re.sub(r"\b(a|an|the)\b", " ", plain).split() for part in parts_of(word)]


_PUNCTUATION = frozenset(string.punctuation)


def fields_of(text: str) -> Counter[str] | None:
    """The values of a JSON object, each with the path of its keys, as texts to compare; None where the text is no object.
    Order counts neither in objects nor in lists, 1 is 1.0, and texts are compared without the space around them."""
    bare = re.sub(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", r"\1", text, flags=re.DOTALL)
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    return Counter(_leaves("", found)) if isinstance(found, dict) else None


def _leaves(path: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [leaf for key, one in value.items() for leaf in _leaves(f"{path}/{json.dumps(key)}", one)]
    if isinstance(value, list) and value:
        return [leaf for one in value for leaf in _leaves(f"{path}[]", one)]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return [f"{path}={json.dumps(unicodedata.normalize('NFC', value.strip()) if isinstance(value, str) else value)}"]


def json_f1(said: str, right: str) -> float:
    """F1 over the fields of a JSON object; 0 for an answer that is none."""
    one, other = fields_of(said), fields_of(right)
    if one is None or other is None:
        return 0.0
    return _f1(one, other) if one or other else 1.0


def _rouge(order: int) -> Callable[[str, str], float]:
    def of_row(said: str, right: str) -> float:
        one, other = (_grams(words_of(text.casefold()), order) for text in (said, right))
        return _f1(one, other) if one and other else float(said.split() == right.split())

    return of_row


def rouge_l(said: str, right: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    one, other = words_of(said.casefold()), words_of(right.casefold())
    if not one or not other:
        return float(said.split() == right.split())
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, their in enumerate(other, start=1):
            before, lengths[place] = lengths[place], before + 1 if word == their else max(lengths[place], lengths[place - 1])
    return 2 * lengths[-1] / (len(one) + len(other))


def bleu_counts(said: str, right: str, most: int = 4) -> list[float]:
    """What BLEU (Papineni et al. 2002) sums over rows: for each order the n-grams that are right and those that are said,
    and the words that are said and those that are right."""
    one, other = (words_of(text, marks=r"[^\w\s]") for text in (said, right))
    found: list[float] = []
    for order in range(1, most + 1):
        own = _grams(one, order)
        found += [(own & _grams(other, order)).total(), own.total()]
    return [*found, len(one), len(other)]


def _bleu(sums: Sums) -> Sums:
    """BLEU of a corpus, of the orders that anything said has."""
    import numpy as np

    hits, said = sums[..., 0:-2:2], sums[..., 1:-2:2]
    there = said > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(there, np.log(np.where(there, hits / said, 1.0)), 0.0).sum(axis=-1) / there.sum(axis=-1)
        short = np.minimum(0.0, 1.0 - sums[..., -1] / sums[..., -2])
        return np.where(there.any(axis=-1), np.exp(logs + short), 0.0)


def _grams(words: Sequence[str], order: int) -> Counter[Any]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _f1(one: Counter[Any], other: Counter[Any]) -> float:
    return 2 * (one & other).total() / (one.total() + other.total())


# Of labels, sets and numbers


def _labels(said: Sequence[str], right: Sequence[str]) -> tuple[list[list[float]], Callable[[Sums], Sums]]:
    return _sets([(one,) for one in said], [(one,) for one in right])


def _sets(
    said: Sequence[Sequence[str]], right: Sequence[Sequence[str]], *, micro: bool = False
) -> tuple[list[list[float]], Callable[[Sums], Sums]]:
    """For each label how often it is right, and how often it is said or right; F1 over all, or the mean of the labels'."""
    import numpy as np

    labels = sorted({label for each in (*said, *right) for label in each})
    rows = [
        [count for label in labels for count in ((label in one) & (label in other), (label in one) + (label in other))]
        for one, other in zip(map(set, said), map(set, right), strict=True)
    ]

    def of(sums: Sums) -> Sums:
        hits, named = sums[..., 0::2], sums[..., 1::2]
        if micro:
            total = named.sum(axis=-1)
            return np.where(total > 0, 2 * hits.sum(axis=-1) / np.maximum(total, 1), 1.0)
        there = named > 0
        count = there.sum(axis=-1)
        shares = np.where(there, 2 * hits / np.maximum(named, 1), 0.0).sum(axis=-1)
        return np.where(count > 0, shares / np.maximum(count, 1), 1.0)

    return [list(map(float, row)) for row in rows], of


def _ranks(said: Sequence[str], right: Sequence[str]) -> tuple[list[list[float]], Callable[[Sums], Sums]]:
    """Ranks of all rows, whose correlation is Spearman's."""
    import numpy as np

    def ranks(texts: Sequence[str]) -> list[float]:
        values = np.asarray(list(map(float, texts)))
        order = np.sort(values)
        places = np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")
        return [float(one) / len(values) - 1 for one in places]

    rows = [[1.0, x, y, x * x, y * y, x * y] for x, y in zip(ranks(said), ranks(right), strict=True)]

    def of(sums: Sums) -> Sums:
        n, x, y, xx, yy, xy = (sums[..., place] for place in range(6))
        spread = np.sqrt(np.maximum((n * xx - x * x) * (n * yy - y * y), 0.0))
        return np.where(spread > 1e-12, (n * xy - x * y) / np.where(spread > 1e-12, spread, 1.0), 0.0)

    return rows, of


_OF_SUMS: dict[str, Callable[[Sequence[str], Sequence[str]], tuple[list[list[float]], Callable[[Sums], Sums]]]] = {
    "f1": _labels,
    "macro_f1": lambda said, right: _sets(list(map(split, said)), list(map(split, right))),
    "micro_f1": lambda said, right: _sets(list(map(split, said)), list(map(split, right)), micro=True),
    "spearmanr": _ranks,
}
"""Metrics of tasks that are no means over rows."""

OF_TEXTS: dict[str, Callable[[str, str], float]] = {
    "span_f1": span_f1,
    "json_f1": json_f1,
    "rouge1": _rouge(1),
    "rouge2": _rouge(2),
    "rougeL": rouge_l,
}
"""Metrics of suites alone that are means over rows."""

OF_ROWS = (*(set(METRICS) - set(_OF_SUMS)), *OF_TEXTS)
"""Metrics that are means over rows of what an answer is worth by itself."""

OF_WRITING = (*OF_TEXTS, "bleu")
"""Metrics of suites alone that compare texts."""

SUITE_METRICS = (*METRICS, *OF_WRITING, "perplexity", "preference")
