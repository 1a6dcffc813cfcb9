"""Whether rows that a prompt serves look like those it was trained for: a test for each kind of figure, at a rate of false
alarms that is stated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.evaluation.reference import SKETCH, Reference, Sample, Tally, bin_start
from softprompt.evaluation.statistics.significance import chi_square_tail, critical, f_tail

LEVEL = 1e-3
"""False alarms a look, over all of its tests together."""
LEAST_ROWS = 30
"""Rows without which nothing is judged."""
FEWEST = 8
"""Reference rows without which nothing is said of where inputs lie."""
ENOUGH = 50
"""Rows of a sample without which no row is like it: a larger one decides alone."""
SPENT = 0.5
"""Of the rate of false alarms so much is spent: the tails are those of many rows, and of few they are heavier."""
EXPECTED = 5.0
"""Rows that a bin is expected to have of each sample; smaller ones are taken together."""
BINS = 10
"""Bins at most of what has an order."""

INPUTS, LENGTH, OUTPUTS, CONFIDENCE = "inputs", "length", "outputs", "confidence"
KINDS = (INPUTS, LENGTH, OUTPUTS, CONFIDENCE)


@dataclass(frozen=True)
class Verdict:
    """One kind of figure of some rows, beside the reference."""

    what: str
    """`inputs`, `length`, `outputs` or `confidence`."""
    statistic: str
    """What it is tested by."""
    value: float
    threshold: float | None
    """Above it rows have drifted; None where nothing can be told."""
    p_value: float
    drifted: bool
    rows: int
    beside: str
    """The sample that they are most like."""
    reference_rows: int
    reference: float | None
    """The mean of that sample: tokens, confidence, characters of answers, or the share of the label that moved most."""
    observed: float
    """The same of these rows; of inputs how far their mean lies from the reference's, in standard deviations."""
    detail: str = ""
    """Of outputs the label that moved most."""


@dataclass(frozen=True)
class _Tested:
    """A statistic, and how it is distributed by chance."""

    statistic: str
    value: float
    tail: Callable[[float], float] | None

    @property
    def p_value(self) -> float:
        """That chance alone gives as much."""
        return 1.0 if self.tail is None else min(1.0, self.tail(self.value))


def judge_rows(reference: Reference, tally: Tally, *, level: float = LEVEL, sets: bool = False) -> list[Verdict]:
    """Test rows against a reference, each kind of figure against the sample that it is most like: what looks like the rows
    of training, or like those of the test, is what the prompt was tuned and judged for. A kind that has no rows on one
    side is left out, as is all where there are fewer than :data:`LEAST_ROWS` rows.

    Args:
        reference: what they are compared with.
        tally: of the rows.
        level: the rate of false alarms over all tests together; each gets an equal part.
        sets: whether answers are sets of labels, which are tested label by label.
    """
    compared: dict[str, list[_Compared]] = {}
    for sample in reference.samples:
        for one in _compare(sample, tally, sets=sets):
            if one.rows >= LEAST_ROWS:
                compared.setdefault(one.what, []).append(one)
    found = {what: max(_telling(those), key=lambda one: one.tested.p_value) for what, those in compared.items()}
    own_level = SPENT * level / max(1, len(found))
    return [
        Verdict(
            one.what,
            one.tested.statistic,
            one.tested.value,
            None if one.tested.tail is None else _finite(critical(one.tested.tail, own_level)),
            one.tested.p_value,
            one.tested.p_value < own_level,
            one.rows,
            one.beside,
            one.reference_rows,
            one.reference,
            one.observed,
            one.detail,
        )
        for one in sorted(found.values(), key=lambda one: KINDS.index(one.what))
    ]


def _telling(compared: list[_Compared]) -> list[_Compared]:
    """Those beside samples large enough to be unlike anything: beside a dozen rows all rows look alike. Where none is, that
    beside the largest."""
    most = max((one.tested.tail is not None, one.reference_rows) for one in compared)
    return [
        one
        for one in compared
        if (one.tested.tail is not None, one.reference_rows) == most
        or (one.tested.tail is not None and one.reference_rows >= ENOUGH)
    ]


@dataclass(frozen=True)
class _Compared:
    """Rows beside one sample."""

    what: str
    tested: _Tested
    rows: int
    beside: str
    reference_rows: int
    reference: float | None
    observed: float
    detail: str = ""


def _compare(sample: Sample, tally: Tally, *, sets: bool) -> Iterator[_Compared]:
    own, name = sample.tally, sample.name
    if min(own.rows, tally.rows) > 0:
        tested, distance = _of_means(sample, tally)
        yield _Compared(INPUTS, tested, tally.rows, name, own.rows, None, distance)
        means = (own.tokens / own.rows, tally.tokens / tally.rows)
        yield _Compared(LENGTH, homogeneity(own.lengths, tally.lengths), tally.rows, name, own.rows, *means)
    if min(own.answered, tally.answered) > 0:
        labels = own.confidence.total() > 0  # else bins of lengths, which have an order
        tested = _of_sets(own, tally) if sets else homogeneity(own.answers, tally.answers, ordered=not labels)
        label, before, now = _most_moved(own, tally) if labels else ("", _length(own), _length(tally))
        yield _Compared(OUTPUTS, tested, tally.answered, name, own.answered, before, now, label)
    sure, seen = own.confidence.total(), tally.confidence.total()
    if min(sure, seen) > 0:
        tested = homogeneity(own.confidence, tally.confidence)
        yield _Compared(CONFIDENCE, tested, seen, name, sure, own.sure / sure, tally.sure / seen)


def homogeneity(before: Mapping[Any, int], now: Mapping[Any, int], *, ordered: bool = True) -> _Tested:
    """Pearson's chi-square of two samples over bins, after bins with few rows are taken together: neighbours where bins
    have an order, else the rarest. Nothing is told where one bin is left."""
    keys = sorted(before.keys() | now.keys(), key=int if ordered else str)
    pairs = [(before.get(key, 0), now.get(key, 0)) for key in keys]
    first, second = sum(before.values()), sum(now.values())
    total = first + second
    need = EXPECTED * total / min(first, second)
    if ordered:
        groups = _neighbours(pairs, max(need, total / BINS))
    else:
        pairs.sort(key=lambda pair: (sum(pair), pair))
        rare = [pair for pair in pairs if sum(pair) < need]
        groups = [pair for pair in pairs if sum(pair) >= need]
        rest = (sum(a for a, _ in rare), sum(b for _, b in rare))
        while groups and 0 < sum(rest) < need:
            a, b = groups.pop(0)
            rest = (rest[0] + a, rest[1] + b)
        groups += [rest] if sum(rest) else []
    if len(groups) < 2:
        return _Tested("chi_square", 0.0, None)
    value = 0.0
    for a, b in groups:
        expected = (a + b) * first / total, (a + b) * second / total
        value += (a - expected[0]) ** 2 / expected[0] + (b - expected[1]) ** 2 / expected[1]
    freedom = len(groups) - 1
    return _Tested("chi_square", value, lambda x: chi_square_tail(x, freedom))


def _neighbours(pairs: list[tuple[int, int]], need: float) -> list[tuple[int, int]]:
    groups, open_group = [], (0, 0)
    for a, b in pairs:
        open_group = (open_group[0] + a, open_group[1] + b)
        if sum(open_group) >= need:
            groups.append(open_group)
            open_group = (0, 0)
    if sum(open_group) and groups:
        last = groups.pop()
        open_group = (last[0] + open_group[0], last[1] + open_group[1])
    return [*groups, open_group] if sum(open_group) else groups


def _of_means(sample: Sample, tally: Tally) -> tuple[_Tested, float]:
    """Hotelling's T² of two means of sketches, the spread taken from the sample; and how far the means lie apart. With
    few rows only some of a sketch's numbers are looked at, which its spread can be told of."""
    own = sample.tally
    count = min(SKETCH, max(1, own.rows // 25), tally.rows // 6) if own.rows >= FEWEST else 0
    apart = tally.point / tally.rows - own.point / own.rows
    distance = float(np.sqrt((apart**2).mean()))
    if count < 1:
        return _Tested("hotelling_t2", 0.0, None), distance
    spread = sample.covariance[:count, :count]
    spread = spread + np.eye(count) * max(1e-6, 1e-4 * float(np.trace(spread)) / count)
    gap = apart[:count]
    value = float(gap @ np.linalg.solve(spread, gap)) / (1 / own.rows + 1 / tally.rows)
    share = (own.rows - count) / (count * (own.rows - 1))
    return _Tested("hotelling_t2", value, lambda x: f_tail(x * share, count, own.rows - count)), distance


def _of_sets(own: Tally, tally: Tally) -> _Tested:
    """The greatest chi-square over labels of whether each holds, its chance times the number of labels."""
    labels = sorted(own.answers.keys() | tally.answers.keys())
    tests = [
        homogeneity(
            {1: own.answers[label], 0: own.answered - own.answers[label]},
            {1: tally.answers[label], 0: tally.answered - tally.answers[label]},
            ordered=False,
        )
        for label in labels
    ]
    told = [test for test in tests if test.tail is not None]
    if not told:
        return _Tested("chi_square_of_labels", 0.0, None)
    count = len(told)
    greatest = max(test.value for test in told)
    return _Tested("chi_square_of_labels", greatest, lambda x: min(1.0, count * chi_square_tail(x, 1)))


def _most_moved(own: Tally, tally: Tally) -> tuple[str, float, float]:
    shares = {
        label: (own.answers[label] / own.answered, tally.answers[label] / tally.answered)
        for label in sorted(own.answers.keys() | tally.answers.keys())
    }
    label = max(shares, key=lambda one: abs(shares[one][1] - shares[one][0]), default="")
    return (label, *shares.get(label, (0.0, 0.0)))


def _length(tally: Tally) -> float:
    """About how many characters answers have in the mean."""
    return sum(bin_start(int(place)) * count for place, count in tally.answers.items()) / tally.answered


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
