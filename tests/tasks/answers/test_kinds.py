"""What rows and texts say where an answer is a set of labels or a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.evaluation.metrics import measure
from softprompt.tasks.answers.kinds import (
    balanced,
    farthest,
    join,
    labels_in,
    number_in,
    number_of,
    set_of_scores,
    split,
    statements,
    values_of,
)
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form

LETTERS = st.characters(exclude_characters=";[", codec="utf-8")
LABELS = st.lists(st.text(LETTERS, min_size=1).map(str.strip).filter(bool), unique=True)


@given(LABELS)
def test_a_set_comes_out_of_its_text_as_it_went_in(labels: list[str]) -> None:
    assert split(join(labels)) == tuple(labels)
    assert labels_in(join(labels), ";") == labels
    assert labels_in(labels, ";") == labels


def test_rows_say_sets_in_several_ways() -> None:
    assert labels_in('["a", "b"]', ";") == labels_in("a|b", "|") == labels_in(("a", "b"), ";") == ["a", "b"]
    assert labels_in("", ";") == labels_in([], ";") == labels_in(" ; ", ";") == []
    assert labels_in("[a", ";") == ["[a"]
    with pytest.raises(ValueError, match="it is missing"):
        labels_in(None, ";")
    with pytest.raises(ValueError, match="it is an object"):
        labels_in([{}], ";")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", 4), (" -2.5 ", -2.5), ("1e3", 1000), ("4 of 5", 4), ("4/5", 4), ("about 3.", 3), ("10%", 10), ("+7 points", 7),
        ("1,234", None), ("3,5", None), ("x4", None), ("nan", None), ("1e999", None), ("", None), ("four", None),
    ],
)  # fmt: skip
def test_a_number_is_read_where_nobody_can_read_another(text: str, number: float | None) -> None:
    assert number_in(text) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_out_of_its_text(number: float) -> None:
    assert number_of(repr(number)) == number
    assert number_in(f"it is {number!r} or so") == number


def test_ordered_labels_stand_for_numbers() -> None:
    assert values_of(["1", "2.5"], ()) == {"1": 1, "2.5": 2.5}
    assert values_of(["bad", "good"], [("-1", "bad"), ("1", "good")]) == {"bad": -1, "good": 1}
    assert values_of(["bad", "so", "good"], ()) == {"bad": 1, "so": 2, "good": 3}


def test_a_label_holds_by_its_own_odds_alone() -> None:
    assert statements(["a", "b"]) == ("a: yes", "a: no", "b: yes", "b: no")
    said = set_of_scores(["a", "b"], [-3.0, -3.0 + math.log(3), -90.0, -95.0], 0.25)
    assert said.scores == {"a": pytest.approx(0.25), "b": pytest.approx(1 / (1 + math.exp(-5)))}
    assert (said.labels, said.output) == (("a", "b"), "a; b")
    assert set_of_scores(["a"], [-9.0, -3.0], 0.5).labels == ()


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8))
def test_balanced_weights_make_classes_count_alike(counts: list[int]) -> None:
    weights = balanced(counts)
    assert all(
        weight * count == pytest.approx(weights[0] * counts[0]) for weight, count in zip(weights, counts, strict=True)
    )
    assert sum(weight * count for weight, count in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))


def test_labels_of_which_some_look_like_numbers_are_judged_by_their_places_all_the_same() -> None:
    """A prompt that is sure and right says the place of a label, which is the text of another label."""
    labels = ["0", "1", "2", "3+"]
    form = Form.of_config(parse_config({"task": "t", "problem_type": "regression", "labels": labels}))
    sure = [[0.0 if label == right else -90.0 for label in labels] for right in labels]
    said = [form.of_scores(scores).output for scores in sure]
    assert said == ["1", "2", "3", "4"]
    assert measure("mae", *form.judged(said, labels)) == 0
    assert measure("mae", *form.judged([form.usual(["0", "1", "1"])] * 4, labels)) == (1 + 0 + 1 + 2) / 4
    large = Form.of_config(parse_config({"task": "t", "problem_type": "regression", "labels": ["1234567", "7654321"]}))
    assert measure("mae", *large.judged([large.usual(["1234567"])], ["1234567"])) == 0


def test_what_is_no_number_counts_as_the_worst_that_could_be_said() -> None:
    assert (farthest(2, (0, 10)), farthest(8, (0, 10)), farthest(3, (3, 3))) == (10, 0, 4)
    form = Form.of_config(parse_config({"task": "t", "problem_type": "regression", "answer_range": [0, 10]}))
    said, right = form.judged(["7", "none", "99", "about 4"], ["8", "2", "9", "4.5"])
    assert [float(one) for one in said] == [7, 10, 10, 4]
    assert [float(one) for one in right] == [8, 2, 9, 4.5]
    assert form.of_text("99").outside
    assert not form.of_text("none").outside
    words = Form.of_config(parse_config({"task": "t", "problem_type": "regression", "labels": ["bad", "so", "good"]}))
    assert words.judged(["2.25"], ["good"]) == (["2.25"], ["3.0"])
    assert words.of_scores([-1.0, -1.0, -200.0]).value == pytest.approx(1.5)
