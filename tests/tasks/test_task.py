"""Tasks: files to splits to tokens, with every fault told."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import ConfigError, ContextError, DataError
from softprompt.rows.sources import Row, digest_rows
from softprompt.tasks.splits import position
from softprompt.tasks.task import Task
from tests.models import make_base

BASE = make_base("llama")
LABELS = ["yes", "no"]


def some_rows(count: int = 300) -> list[Row]:
    return [{"text": f"red {n}", "label": LABELS[n % 3 == 0]} for n in range(count)]


def write(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def task_of(folder: Path, rows: list[Row] | None = None, **fields: Any) -> Task:
    name = write(folder, some_rows() if rows is None else rows)
    return Task(folder=folder, **{"task": "t", "data": name, "labels": LABELS, **fields})


def test_a_task_file_is_named_after_itself_and_finds_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, some_rows())
    (tmp_path / "mine.yaml").write_text("data: rows.jsonl\nlabels: ['yes', 'no']\n")
    monkeypatch.chdir("/")
    task = Task.load(tmp_path / "mine.yaml")
    assert task.name == "mine"
    assert len(task.train) + len(task.validation) + len(task.test) == 300


def splits(task: Task) -> list[list[Row]]:
    return [task.train, task.validation, task.test]


@pytest.mark.parametrize(
    "data", [{}, {"validation": 0.2}, {"test": 0.3}, {"validation": 0.25, "test": 0.5}, {"validation": 0.01, "test": 0.01}]
)
def test_splits_are_disjoint_lose_nothing_and_follow_from_content_alone(tmp_path: Path, data: dict[str, float]) -> None:
    def make(rows: list[Row], seed: int) -> list[list[Row]]:
        return splits(task_of(tmp_path, rows, data={"train": "rows.jsonl", **data}, seed=seed))

    rows = some_rows()
    first = make(rows, 0)
    assert sorted(row["text"] for part in first for row in part) == sorted(row["text"] for row in rows)
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    for one, other in zip(first, make(shuffled, 7), strict=True):
        assert sorted(map(str, one)) == sorted(map(str, other))
    validation, test = data.get("validation", 0.1), data.get("test", 0.1)
    if validation > 0.01:  # else a label would go without
        assert first[1] == [row for row in rows if position(row) < validation]
        assert first[2] == [row for row in rows if validation <= position(row) < validation + test]
    assert all({row["label"] for row in part} == set(LABELS) for part in first)


def test_a_file_for_the_test_split_leaves_the_others_by_the_same_rule(tmp_path: Path) -> None:
    rows, test = some_rows(), [{"text": "apple", "label": "no"}]
    write(tmp_path, test, "test.jsonl")
    task = task_of(tmp_path, rows, data={"train": "rows.jsonl", "test": "test.jsonl"})
    assert task.test == test
    assert task.validation == [row for row in rows if position(row) < 0.1]
    assert task.train == [row for row in rows if position(row) >= 0.1]
    write(tmp_path, test, "validation.jsonl")
    task = task_of(tmp_path, rows, data={"train": "rows.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"})
    assert splits(task) == [rows, test, test]
    assert task.data_digest == digest_rows(rows)


@pytest.mark.parametrize("rows", [[], some_rows(1), some_rows(2)])
def test_too_few_rows_are_told(tmp_path: Path, rows: list[Row]) -> None:
    task = task_of(tmp_path, rows)
    with pytest.raises(DataError, match=r"has no rows|no rows are left for the \w+ split of \d rows?; give more rows"):
        _ = task.train


def test_shares_that_leave_nothing_to_train_on_are_told(tmp_path: Path) -> None:
    task = task_of(tmp_path, data={"train": "rows.jsonl", "validation": 0.5, "test": 0.6})
    with pytest.raises(ConfigError, match=r"shares of 0\.5 for validation and 0\.6 for test leave no rows to train on"):
        _ = task.train


def test_a_task_without_data_or_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 't' has no `data`; name a file"):
        _ = Task(task="t").train
    with pytest.raises(ConfigError, match="task is missing"):
        Task(data="rows.csv")
    with pytest.raises(DataError, match=r"no data file 'none\.csv'"):
        _ = Task(task="t", data="none.csv", folder=tmp_path).train


def test_labelled_rows_become_inputs_and_choices(tmp_path: Path) -> None:
    task = task_of(tmp_path, input="Say: {text}\n", target=" {label}")
    rows = [{"text": "red", "label": "no"}, {"text": "blue", "label": "yes"}]
    examples = task.encode(BASE, rows, 4, split="test")
    assert [BASE.decode(ids) for ids in examples.inputs] == ["Say: red\n", "Say: blue\n"]
    assert [BASE.decode(ids) for ids in examples.targets] == [" no", " yes"]
    assert examples.choices == [1, 0]
    assert examples.answers == ["no", "yes"]
    assert (len(examples), examples.truncated) == (2, 0)


def test_free_answers_end_with_the_end_token_and_keep_their_bound(tmp_path: Path) -> None:
    task = task_of(tmp_path, labels=None, target=" {answer}", max_new_tokens=4)
    rows = [{"text": "red", "answer": "stone"}, {"text": "red", "answer": "stone river apple blue green"}]
    examples = task.encode(BASE, rows, 4, split="training")
    whole = BASE.encode([" stone", " stone river apple blue green"])
    assert examples.targets == [[*whole[0], BASE.end_id], whole[1][:4]]
    assert (examples.truncated, examples.answers_cut) == (0, 1)
    assert examples.choices == []


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"text": "red", "label": "maybe"}, {}, "training row 2: the label 'maybe' is not among `labels`"),
        ({"text": "red"}, {}, "training row 2 has no field 'label'"),
        ({"texts": "red", "label": "no"}, {}, r"training row 2 has no field 'text', .*did you mean 'texts'"),
        ({"text": None, "label": "no"}, {}, "training row 2: the field 'text' holds None"),
        ({"text": "", "label": "no"}, {}, "training row 2: the input is empty"),
        ({"text": "red", "label": " "}, {"labels": None}, "training row 2: the field 'label' is empty"),
    ],
)
def test_a_wrong_row_is_told_with_its_number(tmp_path: Path, row: Row, fields: dict[str, Any], expected: str) -> None:
    task = task_of(tmp_path, **fields)
    with pytest.raises(DataError, match=f"task 't', {expected}") as caught:
        task.encode(BASE, [{"text": "red", "label": "no"}, row], 4, split="training")
    if "has no field" not in expected:
        assert json.dumps(row) in str(caught.value), "its number is that of the split, so it is shown"


def test_cut_inputs_are_counted_and_fit(tmp_path: Path) -> None:
    task = task_of(tmp_path, input="Say: {text}\n")
    rows = [{"text": "red " * 200, "label": "no"}, {"text": "red", "label": "no"}, {"text": "中" * 99, "label": "yes"}]
    examples = task.encode(BASE, rows, 20, split="test")
    assert examples.truncated == 2
    assert all(20 + len(ids) + 1 <= 96 for ids in examples.inputs)
    assert all(BASE.decode(ids).endswith("\n") for ids in examples.inputs)


def test_a_prompt_that_leaves_no_room_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="96 virtual tokens and 1 output token leave no room"):
        task_of(tmp_path).encode(BASE, some_rows(1), 96, split="test")


def test_the_majority_is_the_most_frequent_answer_of_the_training_rows(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    counts = {label: sum(row["label"] == label for row in task.train) for label in LABELS}
    assert task.majority() == max(counts, key=lambda label: counts[label]) == "yes"


def test_the_data_digest_follows_the_training_rows(tmp_path: Path) -> None:
    one = task_of(tmp_path).data_digest
    assert task_of(tmp_path).data_digest == one
    changed = some_rows()
    next(row for row in changed if position(row) > 0.5 and row["label"] == "yes")["label"] = "no"
    assert task_of(tmp_path, changed).data_digest != one
