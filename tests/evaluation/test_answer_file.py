"""Rows with answers beside them: whatever kind of file, the rows are read back as they were; a break loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from softprompt.errors import ConfigError, DataError
from softprompt.evaluation.answer_file import KINDS, AnswerFile
from softprompt.rows.tables import read_table

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": 'red, or "blue"; then'},
    {"id": 2, "text": "two\nlines and\ta tab"},
    {"id": 3, "text": "=1+1"},
    {"id": 4, "text": "ünï 标题", "note": None},
]
IDENTITY = {"version": "abc"}


def answers(number: int) -> list[dict[str, Any]]:
    return [{"output": f"answer {n}", "score": 0.5, "scores": {"a": 0.5}} for n in range(number)]


def fill(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] = ("output", "score")) -> dict[str, str]:
    file = AnswerFile(path, rows, IDENTITY)
    file.add(answers(len(rows)))
    return file.finish(columns)


@pytest.mark.parametrize("kind", [*KINDS, ".csv.gz", ".jsonl.gz"])
def test_every_kind_is_read_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out{kind}"
    assert fill(path, ROWS) == {}
    found = read_table(path)
    assert found.columns[:2] == ("id", "text")
    assert {"output", "score"} <= set(found.columns)
    assert [row["text"] for row in found.rows] == [row["text"] for row in ROWS]
    assert [row["output"] for row in found.rows] == [f"answer {n}" for n in range(4)]
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name], "nothing else is left"


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


@given(rows=st.lists(TEXT, min_size=2, max_size=6), kind=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".xlsx"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_back(tmp_path: Path, rows: list[str], kind: str) -> None:
    path = tmp_path / f"out{kind}"
    path.unlink(missing_ok=True)
    given_rows = [{"text": f"x{text}x", "more": "b"} for text in rows]
    fill(path, given_rows)
    assert [row["text"] for row in read_table(path).rows] == [row["text"] for row in given_rows]


@example(rows=["_x005F\r"], kind=".xlsx")  # whose end is written as an escape, and makes one of what stands before it
@given(
    rows=st.lists(
        st.text('ab"\r\n\t,;| ', max_size=6) | st.lists(st.sampled_from(["_x000D_", "_x005F", "_", "\r"])).map("".join),
        min_size=1,
        max_size=5,
    ),
    kind=st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".xlsx"]),
)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_line_ends_within_texts_are_read_back(tmp_path: Path, rows: list[str], kind: str) -> None:
    path = tmp_path / f"out{kind}"
    path.unlink(missing_ok=True)
    given_rows = [{"text": text} for text in rows]
    fill(path, given_rows, ("output",))
    assert [row["text"] for row in read_table(path).rows] == rows


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_a_carriage_return_by_itself_divides_no_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"out{kind}"
    fill(path, [{"text": "one\rtwo"}, {"text": "\r"}, {"text": "three"}])
    assert [row["text"] for row in read_table(path).rows] == ["one\rtwo", "\r", "three"]


def test_a_break_loses_nothing_and_another_call_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    file = AnswerFile(path, ROWS, IDENTITY)
    file.add(answers(2))
    file.close()
    with file.partial.open("a") as partial:
        partial.write('{"output": "cut sh')  # a kill in the middle of a line
    assert not path.exists()
    again = AnswerFile(path, ROWS, IDENTITY)
    assert again.answers == answers(2)
    again.add(answers(4)[2:])
    again.close()
    whole = AnswerFile(path, ROWS, IDENTITY)
    assert whole.answers == answers(4)
    whole.close()
    other = AnswerFile(path, ROWS, {"version": "another"})
    assert other.answers == [], "the answers of another version are not gone on with"
    other.add(answers(4))
    other.finish(("output",))
    assert len(read_table(path)) == 4
    assert not other.partial.exists()


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"is there already; name another file, or replace it with --force"):
        AnswerFile(path, ROWS, IDENTITY)
    assert path.read_text() == "mine"
    file = AnswerFile(path, ROWS, IDENTITY, force=True)
    assert path.read_text() == "mine", "only a whole file replaces it"
    file.add(answers(4))
    file.finish(("output",))
    assert len(read_table(path)) == 4
    foreign = tmp_path / "other.csv.partial"
    foreign.write_text("mine")
    with pytest.raises(ConfigError, match=r"is in the way and was not written by this command"):
        AnswerFile(tmp_path / "other.csv", ROWS, IDENTITY)
    assert foreign.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", r"files of kind '.txt' are not written; use .jsonl"),
        ("out", r"files of kind 'none' are not written"),
        ("out.xlsx.gz", r"is compressed already"),
        ("none/out.csv", r"there is no folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_anything_is_answered(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerFile(tmp_path / name, ROWS, IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_a_column_of_the_rows_is_not_overwritten(tmp_path: Path) -> None:
    rows = [{"text": "a", "output": "mine", "output_2": "mine too"}]
    assert fill(tmp_path / "out.jsonl", rows) == {"output": "output_3"}
    (row,) = read_table(tmp_path / "out.jsonl").rows
    assert row == {**rows[0], "output_3": "answer 0", "score": 0.5}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("out.xlsx", [{"text": "a\x07"}], r"Excel cannot hold a control character in 'a\\x07'; write .csv"),
        ("out.xlsx", [{"text": "a" * 40_000}], r"a cell of Excel holds 32767 characters, and one has 40000"),
        ("out.parquet", [{"text": "a"}, {"text": 3}], r"Parquet wants one type in a column .*; write .jsonl"),
        ("out.parquet", [{"id": 10**30}], r"Parquet wants one type in a column .*; write .jsonl"),
        (
            "out.jsonl",
            [{"text": "a"}, {"jpeg": b"\xff\xd8"}],
            r"the column 'jpeg' of row 2 holds bytes .* \.jsonl has no form",
        ),
        ("out.csv.gz", [{"pictures": [{"jpeg": b"\xff\xd8"}]}], r"the column 'pictures' of row 1 holds bytes"),
    ],
)
def test_a_kind_that_cannot_hold_the_rows_is_refused_before_anything_is_answered(
    tmp_path: Path, name: str, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        AnswerFile(tmp_path / name, rows, IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_answers_that_a_kind_cannot_hold_are_there_still_for_another(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "out.xlsx", ROWS[:1], IDENTITY)
    file.add([{"output": "a\x07"}])
    with pytest.raises(DataError, match=r"Excel cannot hold a control character in 'a\\x07'; write .csv"):
        file.finish(("output",))
    assert json.loads(file.partial.read_text().splitlines()[1]) == {"output": "a\x07"}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_lose_no_digits(tmp_path: Path, kind: str) -> None:
    ids = [2**53 + 1, 10**15, 10**15 - 1, 7]
    fill(tmp_path / f"out{kind}", [{"id": number, "ratio": 0.1, "most": float("inf")} for number in ids])
    found = read_table(tmp_path / f"out{kind}").rows
    assert [int(row["id"]) for row in found] == ids
    assert {float(row["ratio"]) for row in found} == {0.1}
    assert {float(row["most"]) for row in found} == {float("inf")}
