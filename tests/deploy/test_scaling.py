"""How many replicas: enough at once, fewer only after a while, never beyond the bounds."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from softprompt.deploy.scaling import Bounds, Scaler


def test_more_at_once_and_fewer_after_a_while() -> None:
    scaler = Scaler(Bounds(least=1, most=4, target=10, idle_s=60))
    there = 1
    seen = []
    for second, requests in enumerate([5, 10, 11, 35, 500] + [12] * 61 + [0] * 61):
        there = scaler.wanted(requests, float(second), there)
        seen.append(there)
    assert seen[:5] == [1, 1, 2, 4, 4]
    assert seen[5:64] == [4] * 59
    assert seen[65] == 2, "a minute after the rush"
    assert seen[125] == 2
    assert seen[-1] == 1


@given(st.lists(st.integers(0, 300), min_size=1, max_size=200), st.integers(1, 3), st.integers(0, 5), st.integers(1, 40))
def test_always_within_bounds_and_always_enough(loads: list[int], least: int, more: int, target: int) -> None:
    bounds = Bounds(least=least, most=least + more, target=target, idle_s=10)
    scaler, there = Scaler(bounds), least
    needed = [min(bounds.most, max(least, math.ceil(load / target))) for load in loads]
    for second, load in enumerate(loads):
        there = scaler.wanted(load, float(second), there)
        assert needed[second] <= there <= bounds.most
        assert there <= max(max(needed[max(0, second - 10) : second + 1]), least) or second < 10 or there <= max(needed)
    for second in range(len(loads), len(loads) + 12):
        there = scaler.wanted(0, float(second), there)
    assert there == least
