"""Rows in memory stand in the place of a file's, and give what the file gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

import softprompt
from softprompt.errors import ConfigError, DataError
from softprompt.library.library import Library
from softprompt.rows.memory import rows_in_memory
from softprompt.rows.values import is_empty, is_missing, plain, text_of
from softprompt.tasks.task import Task
from tests.models import make_base

ROWS = [{"text": f"{word} {n}", "label": label} for n in range(30) for word, label in (("red", "yes"), ("blue", "no"))]
FIELDS: dict[str, Any] = {"task": "kind", "labels": ["yes", "no"], "max_steps": 2, "num_virtual_tokens": 5}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_memory_and_file_are_split_and_trained_alike(tmp_path: Path) -> None:
    base = make_base("llama")
    file = Task(data=write(tmp_path / "rows.jsonl", ROWS), **FIELDS)
    memory = Task(data=ROWS, **FIELDS)
    assert (memory.train, memory.validation, memory.test) == (file.train, file.validation, file.test)
    one, other = (softprompt.train(task, base=base, publish=False)[0].prompt for task in (file, memory))
    assert one.digest == other.digest


def test_each_split_may_come_from_elsewhere(tmp_path: Path) -> None:
    data = {"train": ROWS[:40], "validation": 0.2, "test": write(tmp_path / "test.jsonl", ROWS[40:])}
    task = Task(data=data, **FIELDS)
    assert task.test == ROWS[40:]
    assert len(task.train) + len(task.validation) == 40
    again = task.variant(learning_rate=0.1)
    assert again.train is task.train
    assert task.variant(data={**data, "train": ROWS[:20]}).train != task.train


def test_tables_of_other_libraries_are_rows() -> None:
    pandas = pytest.importorskip("pandas")
    assert rows_in_memory(pyarrow.Table.from_pylist(ROWS)) == ROWS
    assert rows_in_memory(pandas.DataFrame(ROWS)) == ROWS
    assert rows_in_memory(iter(ROWS)) == ROWS
    for table in (pyarrow.Table.from_pylist(ROWS), pandas.DataFrame(ROWS), iter(ROWS), Polars()):
        assert (
            Task(data={"train": table, "test": 0.2}, **FIELDS).test == Task(data={"train": ROWS, "test": 0.2}, **FIELDS).test
        )


class Polars:
    """What a table of polars has: its columns are what it yields."""

    columns = ("text", "label")

    def to_dict(self, *, as_series: bool = True) -> dict[str, list[Any]]:
        return {name: [row[name] for row in ROWS] for name in self.columns}

    def to_dicts(self) -> list[dict[str, Any]]:
        return ROWS


def test_rows_of_a_hub_data_set_are_taken() -> None:
    datasets = pytest.importorskip("datasets")
    assert rows_in_memory(datasets.Dataset.from_list(ROWS)) == ROWS


def test_columns_in_the_place_of_splits_are_called_so() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'data\.text'"):
        Task(data={"text": ["a", "b"], "label": ["yes", "no"]}, **FIELDS)


def test_rows_are_copied() -> None:
    given = [{"text": "a"}]
    rows = rows_in_memory(given)
    rows[0]["text"] = "b"
    assert given == [{"text": "a"}]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], DataError, "data: train: there are no rows"),
        ([{"text": "a"}, "b"], DataError, "data: train, row 2: this is 'b'; give a dictionary of columns"),
        ([["a", "b"]], DataError, "data: train, row 1"),
        ([{3: "a"}], DataError, "data: train, row 1"),
        ([{"text": "half \ud800"}], DataError, "half of a surrogate pair"),
    ],
)
def test_what_is_no_row_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Task(data=given, **FIELDS)


def test_an_error_shows_no_rows() -> None:
    with pytest.raises(ConfigError) as caught:
        Task(data=ROWS, **FIELDS, lr=0.1)
    assert len(str(caught.value)) < 200


def test_a_version_of_rows_in_memory_says_so_when_it_is_trained_again(tmp_path: Path) -> None:
    with Library.open(tmp_path / "home") as library:
        (tuned,) = softprompt.train(dict(FIELDS, data=ROWS), base=make_base("llama"), library=library)
        origin = library.registry.origin(f"kind@{tuned.version}")
        assert origin is not None
        assert {one["address"] for one in origin.data} == {"memory:train"}
        with pytest.raises(DataError, match="the train rows came from memory; give them again"):
            _ = Task(**origin.task_file).train


def test_one_library_is_meant_where_none_is_named() -> None:
    base = make_base("llama")
    softprompt.train(dict(FIELDS, data=ROWS), base=base)
    with Library.open() as library:
        assert [one.ref for one in library.registry.versions("kind")] == ["kind@1"]
    answers = softprompt.predict([{"text": "red 1"}, "red 1"], "kind", base=base)
    assert answers[0] == answers[1]
    (judged,) = softprompt.evaluate("kind", data=ROWS[:10], base=base)
    assert (judged.version, judged.rows) == (1, 10)
    softprompt.sweep(dict(FIELDS, data=ROWS), {"seed": [0, 1]}, base=base)
    assert softprompt.predict(["red"], "kind", base=base)[0].version == 2


def test_what_is_shown_of_an_object_is_short() -> None:
    base = make_base("llama")
    task = Task(data=ROWS, **FIELDS)
    (tuned,) = softprompt.train(task, base=base)
    swept = softprompt.sweep(task, {"seed": [0, 1]}, base=base)
    with Library.open() as library:
        service = softprompt.Service(library, base=base)
        for thing in (base, task, tuned, tuned.prompt, swept, library, service, library.registry.resolve("kind")):
            shown = repr(thing)
            assert shown.startswith(type(thing).__name__ + "(")
            assert len(shown) < 200
            assert "\n" not in shown


def test_a_missing_value_of_pandas_is_none() -> None:
    pandas = pytest.importorskip("pandas")
    for value in (pandas.NA, pandas.NaT, float("nan"), None):
        assert is_missing(value)
        assert is_empty(value)
        assert plain(value) is None
        assert plain([value, {"a": value}]) == [None, {"a": None}]
        with pytest.raises(ValueError, match="it is missing"):
            text_of(value)
    for there in (False, True, 0, "", np.bool_(False), np.float32(0), np.array([1.0, 2.0]), [pandas.NA], {}):
        assert not is_missing(there)
