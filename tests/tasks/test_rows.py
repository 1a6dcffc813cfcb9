"""Rows: every kind of file reads alike, faults are told by line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from softprompt.errors import DataError
from softprompt.tasks.rows import SUFFIXES, Row, digest_rows, find_file, read_hub_split, read_rows

ROWS: list[Row] = [
    {"text": 'a "quoted" text, with commas', "label": "yes"},
    {"text": "two\nlines", "label": "no"},
    {"text": "tabs\tand ünïcödé 🙂", "label": "yes"},
    {"text": " spaces kept ", "label": "no"},
]


def write_rows(file: Path, rows: list[Row]) -> Path:
    if file.suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        file.write_bytes(out.getvalue().encode())
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    assert read_rows(write_rows(tmp_path / f"rows{suffix}", ROWS)) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_a_byte_order_mark_and_upper_case_suffix_do_not_matter(tmp_path: Path, suffix: str) -> None:
    data = write_rows(tmp_path / f"rows{suffix}", ROWS).read_bytes()
    marked = tmp_path / f"marked{suffix.upper()}"
    marked.write_bytes(b"\xef\xbb\xbf" + data)
    assert read_rows(marked) == ROWS


def test_blank_lines_of_json_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n   \n{"a": 2}\nnot json\n')
    with pytest.raises(DataError, match="line 5: not JSON"):
        read_rows(file)
    file.write_text('{"a": 1}\n\n   \n{"a": 2}\n')
    assert read_rows(file) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', "line 2: an object is needed, and this is list"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1\n', "line 2: not JSON"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "line 1: .*surrogate"),
        ("a.jsonl", b'{"a": "caf\xe9"}\n', "not UTF-8"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b'{"a": 1}', "a list of objects is needed"),
        ("a.json", b"[1]", "a list of objects is needed"),
        ("a.json", b'[{"a": "\\udfff"}]', "row 1: .*surrogate"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "one object per line is called .jsonl"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\nx,yes\ny\n", "line 3: 2 columns are needed"),
        ("a.csv", b"text,label\nx, y,yes\n", "line 2: 2 columns are needed .*double quotes"),
        ("a.csv", b"text,text\nx,y\n", "two columns have the same name"),
        ("a.csv", b'text,label\n"x,yes\n', "not valid CSV"),
        ("a.csv", b'"text,label\n', "not valid CSV"),
        ("a.csv", b"text,label\nx,\xff\n", "not UTF-8"),
        ("a.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.jsonl", b'{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', "line 2: not JSON .the key 'a' is given twice"),
        ("a.json", b'[{"a": 1, "a": 2}]', "not JSON .the key 'a' is given twice"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON .*recursion"),
        ("a.json", b"[" * 100_000, "not JSON .*recursion"),
        ("a.txt", b"text", "files of kind '.txt' are not read; use .jsonl"),
        ("rows", b"text", "files of kind 'none' are not read"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        read_rows(file)
    assert str(file) in str(caught.value)


def test_a_parquet_file_with_two_columns_of_one_name_is_told(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array(["a"])] * 3, names=["text", "label", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: two columns have the same name in 'text', 'label', 'text'"):
        read_rows(tmp_path / "a.parquet")


def test_a_parquet_file_damaged_in_its_middle_is_told_with_the_reason(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.parquet", ROWS * 200)
    data = bytearray(file.read_bytes())
    data[20:60] = b"\xff" * 40
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet") as caught:
        read_rows(file)
    assert "None" not in str(caught.value)


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    rows = [{"text": "x" * 200_000, "label": "yes"}]
    assert read_rows(write_rows(tmp_path / "a.csv", rows)) == rows


def test_a_folder_or_a_name_too_long_for_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    for name in ("rows", str(tmp_path / "rows")):
        with pytest.raises(DataError, match=r"is a folder .*; name a file in it"):
            find_file(name, tmp_path)
    with pytest.raises(DataError, match=r"no data file 'x+'"):
        find_file("x" * 5000, tmp_path)
    with pytest.raises(DataError, match=r"no data file '/no/such\.csv'; mend the path"):
        find_file("/no/such.csv", tmp_path)


def test_a_missing_file_is_told_with_the_places_that_were_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, here, data = (tmp_path / name for name in ("beside", "here", "data"))
    for folder in (beside, here, data):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("SOFTPROMPT_DATA", raising=False)
    (data / "rows.csv").write_text("a\n1\n")
    with pytest.raises(DataError, match="SOFTPROMPT_DATA") as caught:
        find_file("rows.csv", beside)
    assert str(beside) in str(caught.value)
    assert str(here) in str(caught.value)
    monkeypatch.setenv("SOFTPROMPT_DATA", str(data))
    assert find_file("rows.csv", beside) == data / "rows.csv"
    (here / "rows.csv").write_text("a\n1\n")
    assert find_file("rows.csv", beside) == here / "rows.csv"
    (beside / "rows.csv").write_text("a\n1\n")
    assert find_file("rows.csv", beside) == beside / "rows.csv"


def test_classes_of_a_hub_data_set_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]}, features=features)
    table.to_parquet(tmp_path / "test.parquet")
    rows = read_hub_split(str(tmp_path), None, "test")  # the library takes a folder for an id
    assert [row["label"] for row in rows] == ["yes", "no", None, None], "-1 stands for a label that is not told"
    with pytest.raises(DataError, match=r"split 'other' of '.*' cannot be read: Unknown split"):
        read_hub_split(str(tmp_path), None, "other")
    with pytest.raises(DataError, match=r"split 'test' of 'owner/set' cannot be read: Couldn't reach"):
        read_hub_split("owner/set", None, "test")


def numbered(count: int, copies: int = 1) -> list[Row]:
    return [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(count) for _ in range(copies)]


def test_digest_of_rows_follows_content_and_order_alone() -> None:
    rows = numbered(5)
    assert digest_rows(rows) == digest_rows([dict(reversed(row.items())) for row in rows])
    assert digest_rows(rows) != digest_rows(rows[::-1])
    changed: list[dict[str, Any]] = [*rows[:-1], {**rows[-1], "text": "other"}]
    assert digest_rows(rows) != digest_rows(changed)
