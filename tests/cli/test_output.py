"""Tables for people: nothing is broken inside a word where the terminal has 80 columns."""

from __future__ import annotations

import re
from typing import Any

import pytest

from softprompt.cli.output import emit, with_errors
from softprompt.cli.train import counted_prompts
from softprompt.library.library import Library
from tests.commands import Run

COLUMNS = ("task", "version", "metric", "value", "rows", "majority", "zero_shot", "untrained", "seconds")


def scored_row(task: str) -> dict[str, Any]:
    scores = dict.fromkeys(("majority", "zero_shot", "untrained"), 0.1234)
    errors = {f"{name}_stderr": 0.01 for name in scores}
    known = {"task": task, "version": 12, "metric": "exact_match", "value": 1.0, "stderr": 0.0, "rows": 1000}
    return {**known, **scores, **errors, "seconds": 1234.5}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("names", [["trec6", "sentence_polarity"], ["a task of many words", "名前/名前-名前"]])
def test_tables_wrap_between_words(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    emit(with_errors([scored_row(name) for name in names]), False, "Several", COLUMNS)
    out = capsys.readouterr().out
    words = out.split()
    assert {*COLUMNS, "12", "1000", "1234", "±0.000", "±0.010", "0.123", "match"} <= set(words)
    for part in ("sentence_", "polarity", "trec6") if "trec6" in names else ("many", "words", "名前/", "名前-"):
        assert part in words
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("narrow")
def test_what_fits_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"task": "a_name-of/many:parts", "value": 0.5, "input": "two words"}] * 2
    emit(rows, False, "Two", None)
    lines = capsys.readouterr().out.splitlines()
    assert sum("a_name-of/many:parts" in line and "two words" in line for line in lines) == 2


def test_scores_stand_beside_their_errors() -> None:
    (row,) = with_errors([{"value": 0.5, "stderr": 0.125, "majority": 0.25, "majority_stderr": None, "rows": 3}])
    assert row == {"value": "0.500 ±0.125", "stderr": 0.125, "majority": "0.250", "majority_stderr": None, "rows": 3}
    assert with_errors([{"value": None, "stderr": None}]) == [{"value": None, "stderr": None}]
    assert with_errors([{"value": 0.5}]) == [{"value": 0.5}]


@pytest.mark.usefixtures("narrow")
def test_a_row_that_reads_downwards_is_broken_between_words_and_parts_of_paths(capsys: pytest.CaptureFixture[str]) -> None:
    folder = "/a/home/of/someone/with/many_folders/one/in/another/and/the_last/of/them"
    recipe = {f"key_of_{number}": number / 7 for number in range(9)}
    row = {"registry": f"sqlite:///{folder}/registry.db", "recipe": recipe, "digest": "0123456789abcdef" * 4, "versions": 3}
    emit([row], False, "One")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    values = [line[9:].strip() for line in out.splitlines()[2:]]
    whole = r"(sqlite:)?[a-z_/]+/|[a-z_/]*registry\.db|[0-9a-f]+|(key_of_\d=[\d.]+,? ?)+|3|"
    assert [value for value in values if not re.fullmatch(whole, value)] == []
    assert "".join(values).startswith(row["registry"])


def test_a_title_promises_nothing_where_there_is_nothing(run: Run) -> None:
    Library.open(create=True).close()
    assert run("library", "gc").out == "Would be deleted: nothing here\n"


def test_the_title_counts_prompts_of_one_length_and_of_several() -> None:
    assert counted_prompts([768]) == "1 prompt of 768 numbers"
    assert counted_prompts([1280, 1280]) == "2 prompts of 1,280 numbers each"
    assert counted_prompts([1280, 768, 5120]) == "3 prompts of 768 to 5,120 numbers"
