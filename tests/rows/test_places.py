"""Rows are called by their places in what holds them, through splits and messages, and names are made when one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import DataError
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.places import Place, numbered
from softprompt.rows.sources import Row, read_rows
from softprompt.tasks.load import check_before_loading
from softprompt.tasks.task import Task
from softprompt.training.prepare import Preparer
from softprompt.training.remarks import remarks_on
from tests.models import make_base

BASE = make_base("llama")
LABELS = ["yes", "no"]


def some_rows(count: int = 40) -> list[Row]:
    return [{"text": f"red {n}", "label": LABELS[n % 2]} for n in range(count)]


def write(folder: Path, rows: list[Row], name: str) -> str:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith(".csv"):  # each row takes two lines
        file.write_text("text,label\n" + "".join(f'"{row["text"]}\n",{row["label"]}\n' for row in rows))
    elif name.endswith(".json"):
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return name


@pytest.mark.parametrize(
    ("name", "place"),
    [("sub/a.csv", "sub/a.csv, line 64"), ("a.jsonl", "a.jsonl, line 32"), ("a.json", "a.json, row 32 (line 1)")],
)
def test_a_row_keeps_its_place_through_the_splits(tmp_path: Path, name: str, place: str) -> None:
    rows = some_rows()
    task = Task(task="t", labels=LABELS, folder=tmp_path, data=write(tmp_path, rows, name))
    places = {
        row["text"].strip(): split.where(index)
        for split in (task.train, task.validation, task.test)
        for index, row in enumerate(split)
    }
    assert len(set(places.values())) == 40
    assert places["red 31"] == place


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text": "red", "label": "maybe"}, ": the label 'maybe' is not among"),
        ({"text": None, "label": "no", "other": 1}, ": the field 'text' holds None: it is missing"),
        ({"label": "no"}, " has no field 'text'"),
    ],
)
def test_a_wrong_row_is_told_by_its_place_before_a_base_is_loaded(tmp_path: Path, wrong: Row, message: str) -> None:
    rows = [*some_rows(), wrong]
    for row in rows:
        row["other"] = row.get("other", 1)
    fields: dict[str, Any] = {"labels": LABELS, "input": "{text} {other}\n", "folder": tmp_path}
    file = write(tmp_path, rows, "rows.jsonl")
    for data, place in (
        (file, "rows.jsonl, line 41"),
        (rows, "row 41 of the rows in memory"),
        ({"train": some_rows_with(other=1), "test": rows}, "row 41 of the test rows in memory"),
    ):
        task = Task(task="t", data=data, **fields)
        with pytest.raises(DataError) as caught:
            check_before_loading([task], task.base_options)
        assert str(caught.value).startswith(f"task 't', {place}{message}"), str(caught.value)


def some_rows_with(**more: Any) -> list[Row]:
    return [row | more for row in some_rows()]


def test_an_empty_answer_is_told_before_a_base_is_loaded(tmp_path: Path) -> None:
    rows = [*some_rows(), {"text": "red", "label": " "}]
    task = Task(task="t", data=write(tmp_path, rows, "rows.jsonl"), folder=tmp_path)
    with pytest.raises(DataError, match=r"task 't', rows\.jsonl, line 41: the field 'label' is empty; give an answer"):
        check_before_loading([task], task.base_options)


def test_what_only_a_base_can_tell_of_a_row_is_told_by_its_place(tmp_path: Path) -> None:
    rows = [*some_rows(), {"text": "red " * 200, "label": "a long answer of many words"}]
    rows = [row | {"text": row["text"] + " "} for row in rows]
    fields = {"folder": tmp_path, "max_new_tokens": 6, "num_virtual_tokens": 8, "target": "{label}"}
    for name in ("train", "test"):
        write(tmp_path, rows if name == "train" else some_rows(4), f"{name}.jsonl")
    task = Task(task="t", data={"train": "train.jsonl", "validation": "test.jsonl", "test": "test.jsonl"}, **fields)
    run, _ = Preparer(BASE).prepare(task, None)
    told = [remark for remark, warning in remarks_on(BASE, run) if warning]
    assert any("1 of 45 inputs were cut to fit the context, the first of them train.jsonl, line 41" in one for one in told)
    assert any("can equal them, the first of them train.jsonl, line 41; the longest" in one for one in told)
    rows = read_rows(tmp_path / "train.jsonl", "train.jsonl")
    rows[2]["text"] = ""
    task = Task(task="t", data="train.jsonl", **fields | {"input": "{text}"})
    with pytest.raises(DataError, match=r"task 't', train\.jsonl, line 3: the input is empty"):
        task.encode(BASE, rows.part([5, 2]), 4, split="test")


def test_parts_of_parts_keep_their_places() -> None:
    rows = numbered(some_rows(9), "them")
    part = rows.part([8, 3, 5]).part([2, 0])
    assert part == [rows[5], rows[8]]
    assert [part.where(index) for index in (0, 1)] == ["row 6 of them", "row 9 of them"]
    assert rows_in_memory(some_rows(3)).where(2) == "row 3 of the rows in memory"


def test_a_name_is_made_only_when_it_is_told() -> None:
    asked: list[int] = []

    def name(index: int) -> str:
        asked.append(index)
        return f"row {index}"

    place = Place(name, 4)
    assert asked == []
    assert f"{place}: wrong" == "row 4: wrong"
    task = Task(task="t", labels=LABELS, data="none")
    task.form.encode_inputs(BASE, some_rows(), 4, name=name)
    assert asked == [4]
