"""The sequential test of two arms: what it computes, how often it is wrong whoever peeks, and when it is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.evaluation.statistics.sequential import Count, better, e_value, interval, log_mixture

LEVEL = 0.05
EXPERIMENTS, OUTCOMES = 3000, 600

counts = st.integers(0, 60).flatmap(lambda n: st.builds(Count, st.just(n), st.floats(0, n)))


def integrated(count: Count, points: int = 40_000) -> float:
    """The mixture as the integral that it is: over rates sin(t)^2, which the prior makes equally likely in t."""
    steps = (np.arange(points) + 0.5) / points * math.pi / 2
    rates = np.sin(steps) ** 2
    return float(np.mean(rates**count.total * (1 - rates) ** (count.outcomes - count.total)))


def slow_e_value(control: Count, candidate: Count) -> float:
    """The largest likelihood is looked for among many rates."""
    n, s = control.outcomes + candidate.outcomes, control.total + candidate.total
    largest = max(rate**s * (1 - rate) ** (n - s) for rate in (at / 20_000 for at in range(20_001)))
    return integrated(control) * integrated(candidate) / largest


@given(counts)
def test_the_mixture_is_its_integral(count: Count) -> None:
    assert math.exp(log_mixture(count)) == pytest.approx(integrated(count), rel=1e-4)


@pytest.mark.parametrize(
    ("control", "candidate"),
    [((0, 0), (0, 0)), ((3, 0), (0, 0)), ((5, 5), (7, 0)), ((40, 21.5), (38, 30.25)), ((12, 12), (12, 12))],
)
def test_the_e_value_is_what_it_says(control: tuple[int, float], candidate: tuple[int, float]) -> None:
    one, other = Count(*control), Count(*candidate)
    assert e_value(one, other) == pytest.approx(slow_e_value(one, other), rel=1e-3)
    assert e_value(one, other) == e_value(other, one)


def test_each_step_is_fair_where_the_rates_are_as_said() -> None:
    """Over its own rate the mixture expects to stay where it is, whatever came before."""
    for count in (Count(), Count(1, 1), Count(9, 2), Count(30, 12.5)):
        for rate in (0.1, 0.5, 0.93):
            after = [math.exp(log_mixture(Count(count.outcomes + 1, count.total + x)) - log_mixture(count)) for x in (0, 1)]
            ratio = {x: after[x] / (rate if x else 1 - rate) for x in (0, 1)}
            assert rate * ratio[1] + (1 - rate) * ratio[0] == pytest.approx(1)


def simulate(rates: tuple[float, float], seed: int, *, weight: float | None = 0.5, graded: bool = False) -> np.ndarray:
    """What is decided when one looks after every outcome: 0 for nothing, 1 for control, 2 for candidate; by experiment.
    Without a weight it is changed after every outcome, for the sake of the arm that is ahead."""
    random = np.random.default_rng(seed)
    lgamma = np.array([0.0, *(math.lgamma(at) for at in np.arange(1, 4 * OUTCOMES + 8) / 4)])  # by quarters
    drawn, luck = random.random((2, EXPERIMENTS, OUTCOMES))
    arms = drawn < weight if weight is not None else shared_out(rates, drawn, luck)
    came = luck < np.where(arms, rates[1], rates[0])
    values = came * 4 if not graded else np.where(came, random.integers(2, 5, came.shape), random.integers(0, 2, came.shape))
    n = [np.cumsum(~arms, axis=1), np.cumsum(arms, axis=1)]
    s = [np.cumsum(values * ~arms, axis=1), np.cumsum(values * arms, axis=1)]
    log_m = sum(
        lgamma[own + 2] + lgamma[4 * many - own + 2] - lgamma[4 * many + 4] - math.log(math.pi)
        for many, own in zip(n, s, strict=True)
    )
    every, hits = np.arange(1, OUTCOMES + 1), (s[0] + s[1]) / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        share = hits / every
        log_l = np.where(hits > 0, hits * np.log(share), 0) + np.where(hits < every, (every - hits) * np.log1p(-share), 0)
        ahead = s[1] / n[1] > s[0] / n[0]
    clear = (log_m - log_l >= -math.log(LEVEL)) & (n[0] > 0) & (n[1] > 0)
    first = np.argmax(clear, axis=1)
    rows = np.arange(EXPERIMENTS)
    for row in (0, 1, 2):  # the quick way is the module's
        at = int(first[row]) if clear[row, first[row]] else OUTCOMES - 1
        pair = [Count(int(n[arm][row, at]), float(s[arm][row, at]) / 4) for arm in (0, 1)]
        assert math.log(e_value(*pair)) == pytest.approx(float((log_m - log_l)[row, at]), abs=1e-8)
        said = {None: 0, "control": 1, "candidate": 2}[better(*pair, LEVEL)]
        assert said == (1 + int(ahead[row, at]) if clear[row, at] else 0)
    decided: np.ndarray = np.where(clear[rows, first], 1 + ahead[rows, first], 0)
    return decided


def shared_out(rates: tuple[float, float], drawn: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """Which arm each outcome is of, where the one that is ahead gets nine users of ten."""
    arms = np.zeros(drawn.shape, dtype=bool)
    n, s = np.zeros((2, 2, len(drawn)))
    for at in range(drawn.shape[1]):
        arms[:, at] = one = drawn[:, at] < np.where(s[1] * n[0] > s[0] * n[1], 0.9, 0.1)
        came = luck[:, at] < np.where(one, rates[1], rates[0])
        n += (~one, one)
        s += (~one & came, one & came)
    return arms


def upper(hits: int, of: int) -> float:
    """The upper bound of a rate at 99% after Clopper and Pearson: at it so few hits come in one case of a hundred."""
    low, high = hits / of, 1.0
    logs = [math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(hits + 1)]
    for _ in range(50):
        rate = (low + high) / 2
        few = sum(math.exp(log + k * math.log(rate) + (of - k) * math.log1p(-rate)) for k, log in enumerate(logs))
        low, high = (rate, high) if few > 0.01 else (low, rate)
    return high


@pytest.mark.parametrize(
    ("rate", "weight", "graded"),
    [(0.5, 0.5, False), (0.9, 0.1, False), (0.7, 0.5, True), (0.5, None, False), (0.8, None, False)],
)
def test_peeking_after_every_outcome_raises_few_false_alarms(rate: float, weight: float | None, graded: bool) -> None:
    decided = simulate((rate, rate), seed=1, weight=weight, graded=graded)
    assert upper(int((decided > 0).sum()), EXPERIMENTS) < LEVEL


def test_a_fixed_test_that_peeks_would_not_pass_here() -> None:
    """The bound can be missed: with the usual test of two shares, looked at after every outcome."""
    random = np.random.default_rng(0)
    arms, came = random.random((2, EXPERIMENTS, OUTCOMES)) < 0.5
    n1, n0 = np.cumsum(arms, axis=1), np.cumsum(~arms, axis=1)
    s1, s0 = np.cumsum(arms & came, axis=1), np.cumsum(~arms & came, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (s0 + s1) / (n0 + n1)
        z = (s1 / n1 - s0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
    alarms = int((np.nan_to_num(np.abs(z)[:, 30:]) > 1.96).any(axis=1).sum())
    assert upper(alarms, EXPERIMENTS) > LEVEL


def test_the_worse_is_hardly_ever_taken_for_the_better_and_the_better_is_found() -> None:
    decided = simulate((0.6, 0.8), seed=2)
    assert upper(int((decided == 1).sum()), EXPERIMENTS) < LEVEL
    assert (decided == 2).mean() > 0.85  # of 600 outcomes, 300 an arm
    decided = simulate((0.6, 0.8), seed=4, weight=None)
    assert upper(int((decided == 1).sum()), EXPERIMENTS) < LEVEL


def test_intervals_hold_at_every_look() -> None:
    """The rate falls out of its bounds in fewer experiments than the level, ever."""
    random, rate, missed = np.random.default_rng(3), 0.8, 0
    lgamma = np.array([math.lgamma(max(at, 1) / 2) for at in range(2 * OUTCOMES + 4)])  # by halves
    s = np.cumsum(random.random((EXPERIMENTS, OUTCOMES)) < rate, axis=1)
    n = np.arange(1, OUTCOMES + 1)
    log_m = lgamma[2 * s + 1] + lgamma[2 * (n - s) + 1] - lgamma[2 * n + 2] - math.log(math.pi)
    log_l = s * math.log(rate) + (n - s) * math.log1p(-rate)
    missed = int((log_m - log_l >= -math.log(LEVEL)).any(axis=1).sum())
    assert upper(missed, EXPERIMENTS) < LEVEL
    for at in (0, 17, OUTCOMES - 1):
        low, high = interval(Count(int(n[at]), float(s[0, at])), LEVEL)
        assert (low < rate < high) == bool((log_m - log_l)[0, at] < -math.log(LEVEL))


@given(counts)
def test_intervals_hold_the_mean_and_end_where_the_mixture_does(count: Count) -> None:
    low, high = interval(count, LEVEL)
    assert 0 <= low <= (0.5 if count.rate is None else count.rate) <= high <= 1
    more = Count(4 * count.outcomes, 4 * count.total)
    closer = interval(more, LEVEL)
    assert closer[1] - closer[0] <= high - low + 1e-9
    if not count.outcomes:
        assert (low, high) == (0, 1)
        assert better(count, count, LEVEL) is None
