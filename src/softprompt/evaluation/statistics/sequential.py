"""Two arms compared while outcomes come in, valid at every look. No torch.

An outcome is a number from 0 to 1. With `s` the sum of an arm's `n` outcomes, its beta-binomial mixture

    m(s, n) = B(s + 1/2, n - s + 1/2) / B(1/2, 1/2)

over `p^s (1 - p)^(n - s)` is a martingale that starts at 1 where `p` is the arm's true rate (a supermartingale for outcomes
between 0 and 1, as `x -> (q/p)^x ((1-q)/(1-p))^(1-x)` is convex), so by Ville's inequality it ever reaches `1/level` with
probability `level` at most: that is the arm's confidence sequence (Robbins, "Statistical methods related to the law of the
iterated logarithm", 1970). The product of both arms' mixtures over the largest likelihood that equal rates can have is at
most the product of those two, whatever the rates' common value: an e-process for equal rates (Wasserman, Ramdas and
Balakrishnan, "Universal inference", 2020; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe
anytime-valid inference", 2023). Where the candidate's mean is the higher one it is at most that for any candidate that is no
better, too. So how often one looks, when one stops, and how users are shared out change nothing of the rate of false alarms:
each arm's mixture moves with an outcome of that arm alone, by its chance given the arm, and stands still else, so the share
may be changed at any time, for whatever reason, also because of the outcomes so far. What does change it: outcomes that
depend on each other, as those of one user may; and rates that change with time while the share does, for then the arms are
compared in different times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_LOG_HALVES = math.log(math.pi)  # of B(1/2, 1/2)
_LARGEST = 700.0
"""Logarithm beyond which an e-value is shown as it is there."""


@dataclass(frozen=True)
class Count:
    """Outcomes of an arm."""

    outcomes: int = 0
    total: float = 0.0
    """Their sum: the successes, where each is 0 or 1."""

    @property
    def rate(self) -> float | None:
        """Their mean; None of none."""
        return self.total / self.outcomes if self.outcomes else None


def log_mixture(count: Count) -> float:
    """The logarithm of an arm's beta-binomial mixture."""
    a, b = count.total + 0.5, count.outcomes - count.total + 0.5
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b) - _LOG_HALVES


def log_likelihood(count: Count, rate: float) -> float:
    """Of the outcomes where they come at a rate; minus infinity where they cannot."""
    failures = count.outcomes - count.total
    found = 0.0
    for times, chance in ((count.total, rate), (failures, 1 - rate)):
        if times > 0:
            found += times * math.log(chance) if chance > 0 else -math.inf
    return found


def e_value(control: Count, candidate: Count) -> float:
    """How strongly outcomes speak against equal rates: with probability `level` it ever reaches `1/level` where they are
    equal, at most. 1 without outcomes."""
    both = Count(control.outcomes + candidate.outcomes, control.total + candidate.total)
    if not both.outcomes:
        return 1.0
    likeliest = log_likelihood(both, both.total / both.outcomes)
    return math.exp(min(_LARGEST, log_mixture(control) + log_mixture(candidate) - likeliest))


def better(control: Count, candidate: Count, level: float) -> str | None:
    """Which arm is clearly better, `control` or `candidate`: None as long as neither is. Asked after every outcome it tells
    equal arms apart, or takes the worse for the better, with probability `level` at most."""
    if control.rate is None or candidate.rate is None or e_value(control, candidate) * level < 1:
        return None
    return "candidate" if candidate.rate > control.rate else "control"


def interval(count: Count, level: float) -> tuple[float, float]:
    """Bounds of an arm's true rate, which all hold at once, at every look, with probability 1 - level."""
    bound = log_mixture(count) + math.log(level)

    def outside(rate: float) -> bool:
        return log_likelihood(count, rate) <= bound

    middle = count.rate if count.rate is not None else 0.5
    return _edge(0.0, middle, outside), _edge(1.0, middle, outside)


def _edge(out: float, within: float, outside: Callable[[float], bool]) -> float:
    """Where a set ends between a point that may be out of it and one within it."""
    if not outside(out):
        return out
    for _ in range(50):
        middle = (out + within) / 2
        if outside(middle):
            out = middle
        else:
            within = middle
    return within
