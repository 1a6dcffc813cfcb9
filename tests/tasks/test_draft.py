"""First task files from tables, and the data made by program."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from softprompt.errors import ConfigError, DataError, NameRefused
from softprompt.names import check_task
from softprompt.tasks import samples
from softprompt.tasks.config import TaskConfig, parse_config
from softprompt.tasks.draft import draft_task


def write_csv(file: Path, columns: list[str], rows: list[list[str]]) -> Path:
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])
    return file


def drafted(file: Path, **options: Any) -> TaskConfig:
    return parse_config(yaml.safe_load(draft_task(file, **options).yaml))


def test_a_table_with_few_answers_becomes_a_choice_among_labels(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "mine.csv", ["id", "body", "sentiment"], [[str(i), f"text {i}", "ab"[i % 2]] for i in range(9)]
    )
    config = drafted(file)
    assert config.task == "mine"
    assert config.labels == ("a", "b")
    assert config.input == "{body}\nSentiment:"
    assert config.target == " {sentiment}"


def test_a_table_with_many_answers_becomes_generation(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["question", "answer"], [[f"what {i}", f"thing {i}"] for i in range(9)])
    config = drafted(file)
    assert config.labels is None
    assert config.metric_name == "exact_match"


def test_columns_without_telling_names_are_guessed_by_their_content(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "mine.csv", ["a", "b"], [["x" if i % 2 else "y", f"a longer text {i}"] for i in range(9)])
    assert drafted(file).target == " {a}"
    with pytest.raises(DataError, match="2 of them different"):
        draft_task(file, text=["a"], label="b")
    write_csv(file, ["a", "b"], [[f"x{i}", f"a longer text {i}"] for i in range(9)])
    assert drafted(file, text=["a"], label="b").input.startswith("{a}")


def test_a_table_that_cannot_be_a_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only the column"):
        draft_task(write_csv(tmp_path / "one.csv", ["text"], [["a"]]))
    with pytest.raises(DataError, match="no column 'c'"):
        draft_task(write_csv(tmp_path / "two.csv", ["a", "b"], [["1", "2"]]), text=["c"])
    with pytest.raises(ConfigError, match="my text"):
        draft_task(write_csv(tmp_path / "three.csv", ["my text", "label"], [["1", "2"]] * 5))


def test_a_column_with_one_value_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    rows = [["en", "x" if i % 2 else "y", f"a longer text {i}"] for i in range(9)]
    file = write_csv(tmp_path / "mine.csv", ["a", "b", "c"], rows)
    assert drafted(file).target == " {b}"


@pytest.mark.parametrize("rows", ['"a","b"', '"a",""', '"a"," "'])
def test_a_row_without_an_answer_is_told_before_a_file_is_drafted_that_training_refuses(tmp_path: Path, rows: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(f"text,label\nx,yes\ny,no\n{rows}\nz,yes\nu,no\nv,yes\n")
    if '"b"' in rows:
        assert drafted(file).target == " {label}"
        return
    with pytest.raises(DataError, match=r"column 'label' is empty in 1 of 6 rows, the first of them row 3; fill it"):
        draft_task(file)
    (tmp_path / "mine.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b"}\n{"text": "c", "label": NaN}\n')
    with pytest.raises(DataError, match="column 'label' is empty in 2 of 3 rows, the first of them row 2"):
        draft_task(tmp_path / "mine.jsonl")


@pytest.mark.parametrize(
    ("file_name", "task"),
    [("my reviews (1).csv", "my-reviews-1"), ("été.csv", "t"), ("日本.csv", "task"), ("a" * 200 + ".csv", "a" * 128)],
)
def test_a_task_gets_a_name_that_the_library_takes(tmp_path: Path, file_name: str, task: str) -> None:
    file = write_csv(tmp_path / file_name, ["text", "label"], [[f"text {i}", "ab"[i % 2]] for i in range(9)])
    config = drafted(file)
    assert config.task == check_task(task)
    assert config.data is not None
    assert config.data.train == file_name
    with pytest.raises(NameRefused, match="task 'my task' is refused"):
        draft_task(file, name="my task")


def test_samples_are_the_same_each_time_and_hold_no_fact_twice() -> None:
    for make, key in ((samples.headwords, "definition"), (samples.questions, "text"), (samples.remarks, "text")):
        rows = make()
        assert rows == make()
        assert rows != make(seed=1)
        assert len({row[key] for row in rows}) == len(rows) > 500


def test_headwords_are_right_where_english_is_regular() -> None:
    words = {row["definition"]: row["headword"] for row in samples.headwords()}
    assert words["more than one bus"] == "buses"
    assert words["the past of plant"] == "planted"
    assert words["a person who can drum"] == "drummer"
    assert words["the number after sixty-nine"] == "seventy"
    assert words["the most rough of all"] == "roughest"
