"""How likely chance alone gives a statistic as large: tails of the chi-square and the F distribution. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY, _STEPS = 1e-300, 500


def chi_square_tail(value: float, freedom: float) -> float:
    """The probability that a chi-square variable with so many degrees of freedom is above a value."""
    if value <= 0:
        return 1.0
    a, x = freedom / 2, value / 2
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:  # the series of the lower part
        term = total = 1 / a
        for step in range(1, _STEPS * 10):
            term *= x / (a + step)
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1 - front * total)
    return front / _fraction(lambda n: -n * (n - a), lambda n: x + 2 * n + 1 - a)


def f_tail(value: float, over: float, under: float) -> float:
    """The probability that an F variable with degrees of freedom `over` and `under` is above a value."""
    if value <= 0:
        return 1.0
    return _beta_share(under / 2, over / 2, under / (under + over * value))


def critical(tail: Callable[[float], float], level: float) -> float:
    """The value that chance exceeds with the probability `level`, to six digits."""
    low, high = 0.0, 1.0
    while tail(high) > level:
        low, high = high, high * 2
        if high > 1e12:  # an F with hardly any freedom has no end
            return math.inf
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > level else (low, middle)
    return high


def _beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))

    def over(n: int) -> float:
        m, odd = divmod(n, 2)
        if odd:
            return -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        return m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))

    return front / (a * _fraction(over, lambda n: 1.0))


def _fraction(over: Callable[[int], float], under: Callable[[int], float]) -> float:
    """The continued fraction under(0) + over(1) / (under(1) + over(2) / (under(2) + ...)), by Lentz's method."""
    value = under(0) or _TINY
    c, d = value, 0.0
    for n in range(1, _STEPS):
        d = under(n) + over(n) * d or _TINY
        c = under(n) + over(n) / c or _TINY
        d = 1 / d
        value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return value
