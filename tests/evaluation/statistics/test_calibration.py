"""The temperature that calibrates probabilities: found where a slow look at every temperature finds it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.evaluation.statistics.calibration import COLDEST, WARMEST, calibrated, fit_temperature
from softprompt.tasks.answers.kinds import softmax


def smoothed_loss(chances: Sequence[Sequence[float]], right: Sequence[int], temperature: float) -> float:
    """Cross-entropy row by row and label by label, in plain Python."""
    rows, total = len(right), 0.0
    for own, place in zip(chances, right, strict=True):
        said = calibrated([math.log(max(one, 1e-300)) for one in own], temperature)
        for label, chance in enumerate(said):
            target = (rows + 1) / (rows + 2) if label == place else 1 / ((rows + 2) * (len(own) - 1))
            total -= target * math.log(max(chance, 1e-300))
    return total / rows


rows = st.lists(st.tuples(st.lists(st.floats(-8, 0), min_size=3, max_size=3), st.integers(0, 2)), min_size=1, max_size=12)


@given(rows)
def test_no_other_temperature_is_better(given: list[tuple[list[float], int]]) -> None:
    chances, right = [softmax(scores) for scores, _ in given], [place for _, place in given]
    found = fit_temperature(chances, right)
    assert found is not None
    assert COLDEST * 0.99 <= found <= WARMEST * 1.01
    best = smoothed_loss(chances, right, found)
    for step in range(61):
        other = COLDEST * (WARMEST / COLDEST) ** (step / 60)
        assert best <= smoothed_loss(chances, right, other) + 1e-6


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_rows_were_drawn_at_is_found(true: float) -> None:
    """Labels drawn from known probabilities, which are then told too sure, or not sure enough."""
    draw = random.Random(0)
    chances, right = [], []
    for _ in range(4000):
        logits = [draw.gauss(0, 1.5) for _ in range(4)]
        right.append(draw.choices(range(4), softmax(logits))[0])
        chances.append(softmax([logit * true for logit in logits]))
    found = fit_temperature(chances, right)
    assert found == pytest.approx(true, rel=0.1)


def test_a_prompt_that_is_always_right_is_not_made_certain() -> None:
    """With few rows it is held back further: nothing but rows can make it sure."""
    sure = {}
    for count in (10, 200):
        temperature = fit_temperature([[0.9, 0.1]] * count, [0] * count)
        assert temperature is not None
        sure[count] = calibrated([math.log(0.9), math.log(0.1)], temperature)[0]
        assert sure[count] == pytest.approx((count + 1) / (count + 2), abs=1e-3)
    assert sure[10] < sure[200] < 1


def test_what_is_likeliest_stays_and_what_has_no_numbers_has_no_temperature() -> None:
    scores = [-3.0, -1.0, -2.0]
    assert calibrated(scores, 1.0) == softmax(scores)
    for temperature in (0.1, 1.0, 9.0):
        said = calibrated(scores, temperature)
        assert max(range(3), key=said.__getitem__) == 1
        assert math.isclose(sum(said), 1)
    assert fit_temperature([[math.nan, 1.0]], [0]) is None
    assert fit_temperature([], []) is None
