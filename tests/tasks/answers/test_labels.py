"""Labels: one rule for what they are, one text for what looks the same, and spellings that are told and folded."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError
from softprompt.prompts.card import Card
from softprompt.tasks.answers.labels import MOST_LABELS, alike, compose, fold_label, infer_labels
from softprompt.tasks.config.config import parse_config
from softprompt.tasks.form import Form, form_fields

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


def form_of(**fields: Any) -> Form:
    return Form.of_config(parse_config({"task": "t", **fields}))


@pytest.mark.parametrize(
    ("answers", "labels", "why"),
    [
        (["b", "a", "b", "a"], ("a", "b"), "labels: 2 different ones in 4 rows"),
        (["a", "b", "a"], None, "at least 2 rows each in the mean"),
        (["a", "a"], None, "a choice needs two"),
        (["a", "b"] * 40 + ["c"], ("a", "b", "c"), "labels"),
        (["none"] * 60 + [f"thing {n}" for n in range(40)], None, "of which 40 come once"),
        ([f"topic {n}" for n in range(77)] * 10, tuple(sorted(f"topic {n}" for n in range(77))), "labels: 77"),
        ([str(n) for n in range(MOST_LABELS + 1)] * 2, None, f"at most {MOST_LABELS} are taken"),
        (["a", "x" * 81] * 2, None, "over 80 characters"),
        (["a", "b\nc"] * 2, None, "several lines"),
        (["a", " "] * 2, None, "some are empty"),
        (["cafe\u0301", "caf\u00e9", "b"] * 2, ("b", "caf\u00e9"), "labels: 2"),
    ],
)
def test_labels_are_few_short_and_repeated(answers: list[str], labels: tuple[str, ...] | None, why: str) -> None:
    found, told = infer_labels(answers)
    assert found == labels
    assert why in told


def test_folded_labels_have_their_most_frequent_spelling_without_outer_space() -> None:
    answers = ["Yes "] * 3 + ["yes"] * 2 + ["no"] * 2 + ["1.0"] * 2 + ["1"]
    assert infer_labels(answers, fold=True)[0] == ("1.0", "Yes", "no")


SPELLINGS = [
    ("yes", "YES"), ("yes", " yes\t"), ("new york", "New\u00a0 York"), ("1", "1.0"), ("1", "01"), ("0.5", ".50"),
    ("1e3", "1000"), ("caf\u00e9", "CAFE\u0301"), ("0", "-0.0"),
]  # fmt: skip
OTHERS = [
    ("C", "C++"), ("1", "10"), ("a b", "ab"), ("3.5", "35"), ("-4", "4"), ("A", "A+"), ("no", "on"), ("nan", "inf"),
    ("9007199254740993", "9007199254740992"), ("1_0", "10"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_labels_of_several_spellings_are_one_where_that_is_asked(one: str, other: str) -> None:
    assert alike({one: 3, "third": 9, other: 4}) == [{other: 4, one: 3}]
    form = form_of(labels=[one, "third"], fold_labels=True)
    assert form.answer({"text": "x", "label": other}, "row 1") == compose(one)
    if compose(one) != compose(other):
        with pytest.raises(DataError, match=r"is not among `labels` .*`fold_labels: true` takes it for "):
            form_of(labels=[one, "third"]).answer({"text": "x", "label": other}, "row 1")
        with pytest.raises(ConfigError, match="are one by fold_labels; keep one of them"):
            form_of(labels=[one, other], fold_labels=True)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_labels_that_say_something_else_are_two(one: str, other: str) -> None:
    assert not alike({one: 1, other: 1})


@given(WORDS)
def test_spellings_of_any_label_are_recognised(label: str) -> None:
    for other in (f"  {label}\n", unicodedata.normalize("NFD", label), unicodedata.normalize("NFC", label)):
        assert fold_label(other) == fold_label(label)
    assert hash(fold_label(label)) == hash(fold_label(f" {label} "))


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_numbers_are_equal_however_they_are_written(number: Any) -> None:
    text = f"{number:f}" if not isinstance(number, int) else str(number)
    longer = f"{text}.0" if isinstance(number, int) else f"{text}00"
    assert fold_label(text) == fold_label(longer) == number
    assert fold_label(f"{text}1") != number or number == 0


@given(st.lists(WORDS, min_size=2, max_size=5, unique_by=compose))
def test_any_labels_find_their_rows_in_both_unicode_forms(labels: list[str]) -> None:
    form = form_of(labels=labels)
    assert form.labels == tuple(map(compose, labels))
    for label in labels:
        for written in (label, unicodedata.normalize("NFD", label), unicodedata.normalize("NFC", label)):
            assert form.answer({"text": "x", "label": written}, "row 1") == compose(label)


def test_labels_that_look_the_same_are_listed_twice() -> None:
    with pytest.raises(ConfigError, match="'caf\u00e9' is listed more than once"):
        form_of(labels=["caf\u00e9", "cafe\u0301"])


def test_words_stand_for_numbers() -> None:
    form = form_of(id2label={0: "negative", 1: "positive"})
    assert form.labels == ("negative", "positive")
    for written, label in ((0, "negative"), ("1", "positive"), ("positive", "positive")):
        assert form.answer({"text": "x", "label": written}, "row 1") == label
    with pytest.raises(DataError, match="the label '2' is not among"):
        form.answer({"text": "x", "label": 2}, "row 1")
    partly = form_of(labels=["bad", "good", "3"], id2label={1: "bad", 2: "good"}, fold_labels=True)
    assert [partly.answer({"text": "x", "label": written}, "row") for written in (1.0, " 2 ", 3)] == ["bad", "good", "3"]
    with pytest.raises(ConfigError, match="id2label: '1' stands for 'fine', which is not among `labels`"):
        form_of(labels=["a", "b"], id2label={1: "fine"})
    with pytest.raises(ConfigError, match="fold_labels: there are no `labels`"):
        form_of(fold_labels=True)


def test_a_card_keeps_how_labels_are_read() -> None:
    config = parse_config({"task": "t", "id2label": {"0": "no", "1": "yes"}, "fold_labels": True})
    made = Form.of_config(config)
    card = Card(base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, recipe=config.recipe(), **form_fields(made))
    again = Form.of_card(Card.parse(card.canonical()))
    assert again == made
    assert again.answer({"text": "x", "label": 1.0}, "row 1") == "yes"
    assert not {"id2label", "fold_labels"} & set(parse_config({"task": "t", "labels": ["a", "b"]}).recipe())


def test_a_prompt_of_before_keeps_its_labels_as_they_are() -> None:
    card = Card(task="t", base="b", fingerprint="f", num_virtual_tokens=1, token_dim=1, labels=("cafe\u0301", "b"))
    assert Form.of_card(card).answer({"text": "x", "label": "caf\u00e9"}, "row 1") == "cafe\u0301"


def test_the_counts_of_a_group_begin_with_the_most_frequent() -> None:
    assert alike(Counter({"a": 1, "A ": 5, "b": 2, "A": 5})) == [{"A": 5, "A ": 5, "a": 1}]
