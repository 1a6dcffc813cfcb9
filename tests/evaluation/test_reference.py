"""References and tallies: what is kept of rows, and how often tests of drift are wrong."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.evaluation.reference import (
    SKETCH,
    Reference,
    Sample,
    Seen,
    Tally,
    _bin,
    _sure_bin,
    answers_of,
    bin_start,
    sketch,
)
from softprompt.evaluation.statistics.drift_tests import LEAST_ROWS, homogeneity, judge_rows
from softprompt.evaluation.statistics.significance import chi_square_tail, critical, f_tail
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form
from tests.models import make_base

LABELS, SHARES = ("a", "b", "c", "d", "e"), (0.55, 0.25, 0.12, 0.06, 0.02)


@pytest.mark.parametrize(
    ("value", "freedom", "tail"),
    [(0.1, 1, 0.75182963), (16.0, 3, 0.0011339843), (30.0, 16, 0.018002193),
     (60.0, 9, 1.34068e-09), (400.0, 30, 2.79549e-66)],
)  # fmt: skip
def test_chi_square_tails(value: float, freedom: int, tail: float) -> None:
    assert chi_square_tail(value, freedom) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize(("value", "over", "under"), [(3.0, 2, 10), (5.0, 4, 60), (0.5, 7, 3), (12.0, 16, 500)])
def test_f_tails_are_those_of_draws(value: float, over: int, under: int) -> None:
    rng = np.random.default_rng(0)
    drawn = (rng.chisquare(over, 200_000) / over) / (rng.chisquare(under, 200_000) / under)
    share = float((drawn > value).mean())
    assert f_tail(value, over, under) == pytest.approx(share, abs=4 * math.sqrt(max(share, 1e-5) / 200_000))


@given(st.floats(1e-9, 0.4), st.integers(1, 40), st.integers(2, 2000))
def test_a_critical_value_is_exceeded_as_often_as_it_says(level: float, over: int, under: int) -> None:
    for tail in (lambda x: chi_square_tail(x, over), lambda x: f_tail(x, over, under)):
        if math.isfinite(found := critical(tail, level)):
            assert tail(found) == pytest.approx(level, rel=1e-3)


def test_tails_without_end() -> None:
    assert critical(lambda x: f_tail(x, 5, 1), 1e-9) == math.inf
    assert chi_square_tail(0, 3) == f_tail(0, 3, 3) == 1


@given(st.integers(0, 100_000))
def test_bins_of_counts_keep_their_order(count: int) -> None:
    assert _bin(count) <= _bin(count + 1) <= _bin(count) + 1 or count < 8
    assert abs(bin_start(_bin(count)) - count) <= 0.1 * count


@given(st.floats(0, 1), st.floats(0, 1))
def test_bins_of_confidence_keep_their_order_and_end(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= _sure_bin(low) <= _sure_bin(high) <= 20


seen_rows = st.lists(
    st.builds(
        Seen,
        st.lists(st.integers(0, 319), min_size=1, max_size=9),
        st.none() | st.lists(st.sampled_from(["a", "é ü", ""]), max_size=2).map(tuple),
        st.just(math.nan) | st.floats(0, 1),
    ),
    min_size=1,
    max_size=12,
)


BASE = functools.cache(make_base)


@settings(max_examples=30)
@given(seen_rows, seen_rows)
def test_a_tally_is_read_as_it_was_told_and_adds_up(first: list[Seen], second: list[Seen]) -> None:
    base = BASE("llama")
    reference = Reference.of(base, {"given": ([[5, 6], [7], [8, 9, 10]], [])})
    both = reference.count(base, first) + reference.count(base, second)
    together = reference.count(base, [*first, *second])
    assert together.lengths == both.lengths
    assert (together.answers, together.confidence, together.rows) == (both.answers, both.confidence, both.rows)
    np.testing.assert_allclose(both.point, together.point, atol=1e-3)  # float32 sums, over a scale that may be small
    again = Tally.read(json.loads(json.dumps(together.told())))
    np.testing.assert_allclose(again.point, together.point, rtol=1e-4, atol=1e-4)
    assert (again.lengths, again.answers, again.tokens) == (together.lengths, together.answers, together.tokens)


def test_an_input_lies_where_the_mean_of_its_tokens_does_whatever_is_beside_it() -> None:
    base = BASE("llama")
    rows = [[3, 4, 5], [7], [4] * 50, []]
    found = sketch(base, rows)
    assert found.shape == (4, SKETCH)
    for row, point in zip(rows[:3], found, strict=False):
        np.testing.assert_allclose(point, sketch(base, [row])[0], atol=1e-6)
    assert not found[3].any()
    alone = sketch(base, [[3], [4], [5]])
    np.testing.assert_allclose(found[0], alone.mean(0), atol=1e-6)
    signs = np.random.RandomState(0).randint(0, 2, (base.width, SKETCH)) * 2 - 1
    expected = base.embedding(torch.tensor([7]))[0].detach().numpy() @ signs / math.sqrt(base.width)
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_a_reference_is_read_as_it_was_told_and_no_other_thing_is() -> None:
    base = BASE("llama")
    judged = [Seen((), ("a",), 0.9), Seen((), ("b",), 0.4)]
    reference = Reference.of(base, {"tuned": ([[n, n + 1] for n in range(40)], judged), "judged": ([], [])})
    assert [one.name for one in reference.samples] == ["tuned"]
    told = json.loads(json.dumps(reference.told()))
    assert len(json.dumps(told)) < 4000
    again = Reference.read(told)
    assert again is not None
    assert again.told() == told
    assert again.samples[0].tally.answers == {"a": 1, "b": 1}
    np.testing.assert_allclose(again.samples[0].covariance, again.samples[0].covariance.T)
    for wrong in (None, 3, {}, told | {"format": 99}, told | {"samples": []}, told | {"centre": [1]}, told | {"samples": 3}):
        assert Reference.read(wrong) is None


# How often they are wrong


class World:
    """Rows drawn at will: skewed sketches, lengths, labels and confidences."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.mix = self.rng.normal(size=(SKETCH, SKETCH))

    def tally(self, rows: int, reference: Reference | None, shift: float = 0.0) -> tuple[Tally, np.ndarray]:
        points = (self.rng.exponential(size=(rows, SKETCH)) + shift) @ self.mix
        lengths = np.maximum(1, self.rng.lognormal(3 + shift, 0.7, rows)).astype(int)
        shares = np.array(SHARES) + shift * np.array([-1, 1, 0, 0, 0])
        answers = self.rng.choice(LABELS, rows, p=shares / shares.sum())
        sure = self.rng.beta(5, 0.7 + 4 * shift, rows)
        seen = [Seen(range(n), (str(a),), float(c)) for n, a, c in zip(lengths, answers, sure, strict=True)]
        tally = Tally()
        tally.add(seen, np.zeros((rows, SKETCH)) if reference is None else reference.scaled(points))
        return tally, points

    def reference(self, rows: int) -> Reference:
        tally, points = self.tally(rows, None)
        rough = Reference(points.mean(0), points.std(0), ())
        scaled = rough.scaled(points)
        tally.point = scaled.sum(0)
        return Reference(rough.centre, rough.scale, (Sample("given", np.cov(scaled, rowvar=False), tally),))


@pytest.mark.parametrize(("reference_rows", "rows"), [(60, 40), (300, 64)])
def test_false_alarms_are_no_more_than_is_stated(reference_rows: int, rows: int) -> None:
    """At a rate of 5% each look, so that some hundred looks tell; each has a reference and rows of its own."""
    world, looks, level = World(1), 1000, 0.05
    alarms, reference = 0, world.reference(reference_rows)
    for look in range(looks):
        if look % 5 == 0:
            reference = world.reference(reference_rows)
        alarms += any(one.drifted for one in judge_rows(reference, world.tally(rows, reference)[0], level=level))
    # The upper end of the confidence interval of the rate (Wilson, 95%, one side).
    share, z = alarms / looks, 1.645
    upper = (share + z * z / (2 * looks) + z * math.sqrt(share * (1 - share) / looks + (z / (2 * looks)) ** 2)) / (
        1 + z * z / looks
    )
    assert upper < level


@pytest.mark.parametrize(("shift", "rows"), [(0.15, 600), (0.4, 100)])
def test_a_shift_is_seen_in_everything_that_shifts(shift: float, rows: int) -> None:
    world = World(2)
    reference = world.reference(600)
    found = judge_rows(reference, world.tally(rows, reference, shift)[0])
    assert [one.what for one in found] == ["inputs", "length", "outputs", "confidence"]
    assert all(one.drifted == (one.value > (one.threshold or math.inf)) for one in found)
    assert sum(one.drifted for one in found) >= 3
    assert found[2].detail in ("a", "b")
    assert found[1].observed > (found[1].reference or 0)
    assert found[3].observed < (found[3].reference or 0)


def test_rows_like_one_of_the_samples_have_not_drifted() -> None:
    world = World(3)
    near = world.reference(600)
    far, _ = world.tally(500, near, 0.4)
    reference = Reference(near.centre, near.scale, (*near.samples, Sample("judged", near.samples[0].covariance, far)))
    assert any(one.drifted for one in judge_rows(near, far))
    found = judge_rows(reference, far)
    assert not any(one.drifted for one in found)
    assert {one.beside for one in found} == {"judged"}


@pytest.mark.parametrize("rows", [1, 11, 40])
def test_a_small_sample_is_like_no_row_at_all(rows: int) -> None:
    """As the test rows of a small task: beside so few everything looks alike, and what is tuned on decides."""
    world = World(7)
    near = world.reference(300)
    few, points = world.tally(rows, near)
    few.point = near.scaled(points).sum(0)
    small = Sample("judged", near.samples[0].covariance, few)
    moved, _ = world.tally(300, near, shift=0.4)
    for samples in ((*near.samples, small), (small, *near.samples)):
        found = judge_rows(Reference(near.centre, near.scale, samples), moved)
        assert [(one.beside, one.drifted) for one in found] == [("given", True)] * 4


def test_few_rows_are_not_judged() -> None:
    world = World(4)
    reference = world.reference(300)
    assert judge_rows(reference, world.tally(LEAST_ROWS - 1, reference, 0.5)[0]) == []
    assert judge_rows(reference, Tally()) == []


def test_bins_with_few_rows_are_taken_together() -> None:
    same = homogeneity(dict.fromkeys(range(200), 2), dict.fromkeys(range(200), 2))
    assert same.value == pytest.approx(0, abs=1e-9)
    assert homogeneity({"a": 100}, {"a": 90}, ordered=False).tail is None
    rare = homogeneity(
        {"a": 100, **{f"r{n}": 1 for n in range(30)}}, {"a": 100, **{f"n{n}": 1 for n in range(40)}}, ordered=False
    )
    assert rare.p_value > 1e-3  # all that is rare is one bin: 30 of 130, and 40 of 140
    assert homogeneity({"a": 100, "b": 3}, {"a": 50, "b": 60}, ordered=False).p_value < 1e-9


def test_lengths_of_what_is_written_have_an_order() -> None:
    before, now = Counter({"2": 40, "10": 60}), Counter({"2": 2, "9": 98})
    assert homogeneity(before, now).p_value < 1e-6


def test_sets_are_tested_label_by_label() -> None:
    def tally(shares: dict[str, int]) -> Tally:
        return Tally(
            rows=100, answered=100, answers=Counter(shares), lengths=Counter({3: 100}), confidence=Counter({2: 100})
        )

    def judged(now: dict[str, int]) -> bool:
        reference = Reference(
            np.zeros(SKETCH), np.ones(SKETCH), (Sample("given", np.eye(SKETCH), tally({"x": 90, "y": 80, "z": 1})),)
        )
        (found,) = [one for one in judge_rows(reference, tally(now), sets=True) if one.what == "outputs"]
        return found.drifted

    assert not judged({"x": 88, "y": 83, "z": 2})
    assert judged({"x": 90, "y": 30, "z": 1})
    assert judged({"x": 90, "y": 80, "z": 40})


def test_numbers_over_ordered_labels_count_as_the_nearest_label() -> None:
    """Each number for itself would be a kind of answer of its own, and no two samples would have one in common."""
    labels = ["0", "1", "2", "3+"]  # which stand for 1 to 4
    form = Form.of_config(parse_config({"task": "t", "problem_type": "regression", "labels": labels}))
    assert [answers_of(form, said) for said in ("1", "1.2", "1.6", "2.5", "4")] == [("0",), ("0",), ("1",), ("1",), ("3+",)]
    tally = Tally(answered=3, answers=Counter({"1.2": 2, "3.9": 1}))
    before = Reference(np.zeros(SKETCH), np.ones(SKETCH), (Sample("judged", np.eye(SKETCH), tally),))
    assert before.counted_as(form).samples[0].tally.answers == {"0": 2, "3+": 1}
    assert before.counted_as(form).samples[0].tally.answers == {"0": 2, "3+": 1}, "and again"
