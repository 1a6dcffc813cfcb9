"""The benchmark of passages: what its data say, and what its figures are of."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import passages
from softprompt.progress import Bars
from tests.models import make_base

pytestmark = pytest.mark.slow


def test_texts_say_two_of_three_facts_and_the_third_is_unknown() -> None:
    texts, questions = passages.made(30, 0)
    assert len(texts) == len(questions) == 30
    for (name, text), asked in zip(texts.items(), questions, strict=True):
        assert [row["answer"] for row in asked].count(passages.UNKNOWN) == 1
        assert all(name in row["question"] for row in asked)
        assert all(row["answer"] in text for row in asked if row["answer"] != passages.UNKNOWN)
    assert len(passages.FACTS) == 3


def test_a_gain_is_the_difference_of_two_rows_on_questions_about_others(tmp_path: Path) -> None:
    args = argparse.Namespace(people=20, test_people=5, k=2, P=4, steps=2, batch=4)
    tasks = passages.make_tasks(tmp_path / "a", args, 0)
    assert [row["question"] for row in tasks["passages"].train] == [row["question"] for row in tasks["question"].train]
    names = [{row["question"] for row in rows} for rows in (tasks["passages"].train, tasks["passages"].test)]
    assert not names[0] & names[1]
    rows = passages.measure(make_base("llama"), args, 0, tmp_path / "b", Bars())
    values = {(row["tuned_on"], row["tried_on"]): row["value"] for row in rows if "value" in row}
    assert len(values) == 6
    assert all(("groundedness" in row) <= (row["tried_on"] == "passages") for row in rows if "value" in row)
    for row in rows:
        if "gain" in row:
            other = values[row["gain_over"], row["tried_on"]]
            assert abs(row["gain"] - (values["passages", "passages"] - other)) < 2e-4
