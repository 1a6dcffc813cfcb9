"""Changes to inputs: the same each time, never to nothing, of the input alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.evaluation.suites.perturb import KINDS, TYPOS, perturbed, swapped

TEXT = st.text(min_size=1, max_size=60) | st.text("aA bB.,! éß\n", min_size=1, max_size=60)
VALUES = TEXT | st.integers() | st.none()
ROWS = st.fixed_dictionaries({"text": VALUES, "other": VALUES, "label": TEXT, "passages": st.lists(TEXT, max_size=4)})
KIND = st.sampled_from(KINDS)


@settings(max_examples=50)
@given(ROWS, KIND, st.integers(0, 3))
def test_a_change_is_the_same_each_time_and_of_the_input_alone(row: dict[str, Any], kind: Any, seed: int) -> None:
    before = dict(row)
    new = perturbed(kind, row, ["text", "other"], seed)
    assert row == before, "the row itself stays"
    assert new == perturbed(kind, dict(reversed(row.items())), ["text", "other"], seed), "whatever the order of columns"
    if new is None:
        return
    assert new != row
    assert new.keys() == row.keys()
    assert new["label"] == row["label"]
    changed = {name for name in row if new[name] != row[name]}
    assert changed <= ({"passages"} if kind == "passages" else {"text", "other"})
    for name in changed - {"passages"}:
        assert isinstance(row[name], str)
        assert new[name].strip(), "what had something in it still has"
    if kind == "passages":
        assert Counter(new["passages"]) == Counter(row["passages"])


@settings(max_examples=50)
@given(TEXT)
def test_typos_swap_a_few_letters_inside_words(text: str) -> None:
    new = perturbed("typos", {"text": text}, ["text"])
    if new is None:
        return
    assert Counter(new["text"]) == Counter(text)
    moved = sum(one != other for one, other in zip(text, new["text"], strict=True))
    assert 2 <= moved <= 2 * max(1, round(TYPOS * len(text)))
    for found in re.finditer(r"[^\W\d_]{4,}", text):
        assert new["text"][found.start()] == text[found.start()]
        assert new["text"][found.end() - 1] == text[found.end() - 1]


@settings(max_examples=50)
@given(st.text("aAbBzZ .1", min_size=1))
def test_case_changes_case_alone(text: str) -> None:
    new = perturbed("case", {"text": text}, ["text"])
    assert (new is None) == (text.lower() == text.upper())
    assert new is None or new["text"].casefold() == text.casefold()


@pytest.mark.parametrize(
    ("text", "new"),
    [("Is it, really?", "Is it really"), ("3.5 is 3.5.", "3.5 is 3.5"), ("why", "why[.!…]"), ("?!", r"\?![.!…]")],
)
def test_punctuation_goes_or_comes(text: str, new: str) -> None:
    made = perturbed("punctuation", {"text": text}, ["text"])
    assert made is not None
    assert re.fullmatch(new if "[" in new else re.escape(new), made["text"])


def test_length_says_the_longest_column_twice() -> None:
    made = perturbed("length", {"text": "a b", "other": "a longer one", "n": 3}, ["text", "other", "n"])
    assert made == {"text": "a b", "other": "a longer one\na longer one", "n": 3}


@pytest.mark.parametrize("passages", ["one\ntwo\nthree", ["one", "two", "three"]])
def test_passages_come_in_another_order(passages: Any) -> None:
    made = perturbed("passages", {"passages": passages}, ["text"])
    assert made is not None
    assert made["passages"] != passages
    assert perturbed("passages", {"passages": "one"}, ["text"]) is None
    assert perturbed("passages", {"passages": ["one", "one"]}, ["text"]) is None
    assert perturbed("passages", {"text": "none at all"}, ["text"]) is None


def test_another_seed_changes_otherwise() -> None:
    row = {"text": "these words are all long enough to have letters swapped somewhere"}
    assert len({str(perturbed("typos", row, ["text"], seed)) for seed in range(5)}) > 1


GROUP = ["he", "she", "Anna"]


def test_words_of_a_group_stand_in_the_place_of_each_other() -> None:
    made = swapped(GROUP, {"text": "He said she and ANNA (he) were the sheriff's", "n": 3}, ["text", "n"])
    assert [row["text"] for row in made] == [
        "She said Anna and HE (she) were the sheriff's",
        "Anna said he and SHE (Anna) were the sheriff's",
    ]
    assert swapped(GROUP, {"text": "the sheriff"}, ["text"]) == []
    assert swapped(["i", "we"], {"text": "ı İ"}, ["text"]) == [], "letters that only the pattern takes for an i"


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["he", "She", "ANNA", "x", "."]), max_size=8), st.integers(2, 3))
def test_a_row_is_swapped_in_each_way_but_its_own(words: list[str], size: int) -> None:
    group = GROUP[:size]
    row = {"text": " ".join(words), "label": "he"}
    made = swapped(group, row, ["text"])
    has = any(word.casefold() in [one.casefold() for one in group] for word in words)
    assert len(made) == (size - 1 if has else 0)
    assert all(one["label"] == "he" and len(one["text"].split()) == len(words) for one in made)


def test_a_word_is_swapped_only_where_it_is_whole_in_scripts_whose_vowels_are_marks() -> None:
    ram, sita = "\u0930\u093e\u092e", "\u0938\u0940\u0924\u093e"
    (row,) = swapped((ram, sita), {"text": f"{ram} {ram}\u093e {sita}\u0902 {sita}."}, ["text"])
    assert row["text"] == f"{sita} {ram}\u093e {sita}\u0902 {ram}."


def test_words_of_chinese_and_japanese_are_swapped_between_others() -> None:
    (row,) = swapped(("他", "她"), {"text": "昨天他说她在iPhone里"}, ["text"])
    assert row["text"] == "昨天她说他在iPhone里"
