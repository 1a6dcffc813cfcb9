"""First task files from tables, and the data made by program."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from softprompt import samples
from softprompt.config import parse_config
from softprompt.draft import draft_task
from softprompt.errors import ConfigError, DataError


def write_csv(file: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])
    return file


def test_a_table_with_few_answers_becomes_a_choice_among_labels(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "mine.csv", ["id", "body", "sentiment"], [[str(i), f"text {i}", "ab"[i % 2]] for i in range(9)]
    )
    config = parse_config(yaml.safe_load(draft_task(file)))
    assert config.task == "mine"
    assert config.labels == ("a", "b")
    assert config.input == "{body}\nSentiment:"
    assert config.target == " {sentiment}"


def test_a_table_with_many_answers_becomes_generation(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["question", "answer"], [[f"what {i}", f"thing {i}"] for i in range(9)])
    config = parse_config(yaml.safe_load(draft_task(file)))
    assert config.labels is None
    assert config.metric_name == "exact_match"


def test_columns_without_telling_names_are_guessed_by_their_content(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["a", "b"], [["x" if i % 2 else "y", f"a longer text {i}"] for i in range(9)])
    assert parse_config(yaml.safe_load(draft_task(file))).target == " {a}"
    assert parse_config(yaml.safe_load(draft_task(file, text="a", label="b"))).input.startswith("{a}")


def test_a_table_that_cannot_be_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only the column"):
        draft_task(write_csv(tmp_path / "one.csv", ["text"], [["a"]]))
    with pytest.raises(DataError, match="no column 'c'"):
        draft_task(write_csv(tmp_path / "two.csv", ["a", "b"], [["1", "2"]]), text="c")
    with pytest.raises(ConfigError, match="my text"):
        draft_task(write_csv(tmp_path / "three.csv", ["my text", "label"], [["1", "2"]] * 5))


def test_samples_are_the_same_each_time_and_hold_no_fact_twice() -> None:
    for make, key in ((samples.headwords, "definition"), (samples.questions, "text"), (samples.remarks, "text")):
        rows = make()
        assert rows == make()
        assert rows != make(seed=1)
        assert len({row[key] for row in rows}) == len(rows) > 500


def test_headwords_are_right_where_english_is_regular() -> None:
    said = {row["definition"]: row["headword"] for row in samples.headwords()}
    assert said["more than one bus"] == "buses"
    assert said["the past of plant"] == "planted"
    assert said["a person who can drum"] == "drummer"
    assert said["the number after sixty-nine"] == "seventy"
    assert said["the most rough of all"] == "roughest"
