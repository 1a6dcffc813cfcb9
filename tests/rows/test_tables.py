"""Tables: every kind of file reads alike, nothing is silently lost or divided wrongly, and faults are told by line."""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime
import decimal
import functools
import gzip
import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softprompt.errors import DataError
from softprompt.rows.delimited import DELIMITERS
from softprompt.rows.tables import SUFFIXES, Table, is_table, read_table
from softprompt.rows.values import Row

ROWS: list[Row] = [
    {"text": 'a "quoted" text, with commas', "label": "yes"},
    {"text": "two\nlines", "label": "no"},
    {"text": "tabs\tand ünïcödé 🙂", "label": "yes"},
    {"text": " spaces kept ", "label": "no"},
]


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def csv_bytes(rows: list[list[str]], delimiter: str = ",", end: str = "\r\n") -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(rows)
    return out.getvalue().encode()


def excel_bytes(rows: list[list[Any]], *others: list[list[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for number, sheet_rows in enumerate((rows, *others)):
        sheet = book.create_sheet() if number else book.worksheets[0]
        for at, row in enumerate(sheet_rows, start=1):
            for column, value in enumerate(row, start=1):
                cell = sheet.cell(at, column, value)
                if isinstance(value, str) and not value.startswith("=="):
                    cell.data_type = "s"
                elif isinstance(value, str):
                    cell.value, cell.data_type = value[1:], "f"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet_bytes(columns: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def table_bytes(suffix: str, rows: list[Row]) -> bytes:
    names = list(rows[0])
    lists = [names, *([row[name] for name in names] for row in rows)]
    if suffix in (".csv", ".tsv"):
        return csv_bytes(lists, "\t" if suffix == ".tsv" else ",")
    if suffix == ".parquet":
        return parquet_bytes({name: [row[name] for row in rows] for name in names})
    if suffix == ".xlsx":
        return excel_bytes(lists)
    if suffix == ".json":
        return json.dumps(rows).encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table_of(folder: Path, name: str, data: bytes) -> Table:
    file = folder / name
    file.write_bytes(data)
    return read_table(file)


def refusal(folder: Path, name: str, data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        table_of(folder, name, data)
    message = str(caught.value)
    assert message.startswith(str(folder / name))
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 400
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of a test."""
    return tmp_path_factory.mktemp("tables")


TYPED = [suffix for suffix in SUFFIXES if suffix != ".txt"]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("suffix", TYPED)
def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path, suffix: str, ending: str) -> None:
    data = table_bytes(suffix, ROWS)
    table = table_of(tmp_path, f"rows{suffix}{ending}", packed(data) if ending else data)
    assert table.rows == ROWS
    assert table.columns == ("text", "label")
    assert len(table) == len(table.lines) == 4
    assert table.told().startswith(f"4 rows of {table.file} with 2 columns (text, label")
    assert is_table(table.file.name.upper())


@pytest.mark.parametrize(
    "mark", [("utf-8-sig", b""), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)]
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_and_upper_case_suffix_do_not_matter(tmp_path: Path, suffix: str, mark: tuple[str, bytes]) -> None:
    text = "a line\nünï\n" if suffix == ".txt" else table_bytes(suffix, ROWS).decode()
    expected = [{"text": "a line"}, {"text": "ünï"}] if suffix == ".txt" else ROWS
    assert table_of(tmp_path, f"marked{suffix.upper()}", mark[1] + text.encode(mark[0])).rows == expected


# Random tables, as other programs write them.

DOORS = ",;\t|\"'\n\r{}= \ufeff\u2028\x0b\x1c\x85éж中🙂ab1"
CELL = st.text(st.sampled_from(DOORS), max_size=8) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAME = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8) | st.sampled_from(
    ["a b", "Text (long)", "x.y", "q?"]
)
WILD_NAME = st.text(st.sampled_from(',;\t|" ab'), min_size=1, max_size=5).filter(str.strip)
DELIMITER = st.sampled_from(sorted(DELIMITERS))


@st.composite
def grids(draw: st.DrawFn, *, least: int = 2, name: st.SearchStrategy[str] = NAME) -> list[list[str]]:
    """A header and rows of random texts."""
    names = draw(st.lists(name, min_size=least, max_size=4, unique=True))
    return [names, *draw(st.lists(st.lists(CELL, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))]


def as_grid(table: Table) -> list[list[Any]]:
    return [list(table.columns), *(list(row.values()) for row in table.rows)]


@settings(max_examples=200)
@given(grids(), DELIMITER, st.booleans(), st.sampled_from(["\r\n", "\n"]), st.booleans())
def test_a_csv_file_reads_back_as_it_was_written(
    folder: Path, grid: list[list[str]], delimiter: str, marked: bool, end: str, is_packed: bool
) -> None:
    assume(end == "\r\n" or not any("\r" in cell for row in grid for cell in row))  # Python 3.11 writes a bare one unquoted
    data = codecs.BOM_UTF8 * marked + csv_bytes(grid, delimiter, end)
    table = table_of(folder, "a.csv.gz", packed(data)) if is_packed else table_of(folder, "a.csv", data)
    assert as_grid(table) == grid
    assert table.delimiter == delimiter
    starts = [csv_bytes(grid[: at + 1], delimiter, end).decode() for at in range(len(grid) - 1)]
    assert list(table.lines) == [1 + count_lines(text) for text in starts]


def count_lines(text: str) -> int:
    return text.count("\r\n") + text.replace("\r\n", "").count("\n") + text.replace("\r\n", "").count("\r")


@settings(max_examples=200)
@given(
    grids(least=1, name=st.text(st.sampled_from(',;\t|" ab'), min_size=1, max_size=5).filter(str.strip)),
    st.sampled_from(sorted(DELIMITERS)),
)
def test_names_of_columns_that_hold_delimiters_are_read_right_or_refused(
    folder: Path, grid: list[list[str]], delimiter: str
) -> None:
    try:
        table = table_of(folder, "a.csv", csv_bytes(grid, delimiter))
    except DataError:
        return
    if len(grid[0]) > 1:
        assert as_grid(table) == grid


@settings(max_examples=200)
@given(grids())
def test_a_tsv_file_with_quotes_around_fields_reads_back_or_is_refused(folder: Path, grid: list[list[str]]) -> None:
    table = unless_unclear(folder, csv_bytes(grid, "\t"))
    if table is None:
        return
    assert as_grid(table) == grid


def unless_unclear(folder: Path, data: bytes) -> Table | None:
    """A TSV file; None where it is refused because a quote may be text or open a field of several lines."""
    (folder / "a.tsv").write_bytes(data)
    with contextlib.suppress(DataError):
        return read_table(folder / "a.tsv")
    with pytest.raises(DataError, match="a quote there may be text"):
        read_table(folder / "a.tsv")
    return None


BARE = st.text(st.sampled_from('""\'ab,; é5'), min_size=1, max_size=8)


@settings(max_examples=200)
@given(st.lists(st.tuples(BARE, BARE), min_size=1, max_size=40))
def test_quotes_in_a_tsv_file_are_text_and_every_line_is_a_row(folder: Path, pairs: list[tuple[str, str]]) -> None:
    data = "text\tlabel\n" + "".join("\t".join(pair) + "\n" for pair in pairs)
    table = unless_unclear(folder, data.encode())
    if table is None:
        return

    def expected(field: str) -> str:
        inner = field[1:-1]
        whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
        return inner.replace('""', '"') if whole else field

    assert as_grid(table)[1:] == [[expected(field) for field in pair] for pair in pairs]
    assert list(table.lines) == [*range(2, len(pairs) + 2)]


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(lambda word: "_x" not in word)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_excel_file_reads_back_as_it_was_written(folder: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    cell = WORDS | st.integers(-(10**9), 10**9) | st.booleans() | st.floats(-1e9, 1e9).map(lambda number: round(number, 3))
    row = st.lists(cell, min_size=len(names), max_size=len(names)).filter(lambda cells: any(value != "" for value in cells))
    grid: list[list[Any]] = [names, *data.draw(st.lists(row, min_size=1, max_size=5))]
    table = table_of(folder, "a.xlsx", excel_bytes(grid))
    assert as_grid(table) == grid
    assert [[type(value) for value in row] for row in as_grid(table)] == [
        [int if isinstance(value, float) and value.is_integer() else type(value) for value in row] for row in grid
    ]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_parquet_file_reads_back_as_it_was_written(folder: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    count = data.draw(st.integers(1, 5))
    kinds = [CELL, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False), st.lists(CELL, max_size=2)]
    columns = {
        name: data.draw(st.lists(st.none() | data.draw(st.sampled_from(kinds)), min_size=count, max_size=count))
        for name in names
    }
    table = table_of(folder, "a.parquet", parquet_bytes(columns))
    assert table.rows == [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@given(st.lists(st.dictionaries(CELL, CELL | st.integers() | st.none() | st.booleans(), max_size=3), min_size=1, max_size=5))
def test_json_in_every_layout_reads_back_with_the_line_of_each_row(folder: Path, rows: list[Row]) -> None:
    lines = table_of(folder, "a.jsonl", ("\n\n" + "\n \n".join(map(json.dumps, rows))).encode())
    assert lines.rows == rows
    assert list(lines.lines) == [*range(3, 3 + 2 * len(rows), 2)]
    assert lines.columns == tuple(dict.fromkeys(name for row in rows for name in row))
    for indent in (None, 2):
        text = json.dumps(rows, indent=indent)
        table = table_of(folder, "a.json", text.encode())
        assert table.rows == rows
        assert table.where(len(rows) - 1) == f"{table.file}, row {len(rows)} (line {table.lines[-1]})"
        for row, line in zip(rows, table.lines, strict=True):
            assert text.split("\n")[line - 1].strip(" [,").startswith("{") == isinstance(row, dict)


# What delimiters and quotes must not do.


@pytest.mark.parametrize(
    ("data", "delimiter", "rows"),
    [
        ("Id;Comment text\r\n1;\"late, cold, sad\"\r\n2;\"a; b\"\r\n", ";", [["1", "late, cold, sad"], ["2", "a; b"]]),
        ('id,"a;b"\n1,"c;d"\n2,"e;f"\n', ",", [["1", "c;d"], ["2", "e;f"]]),
        ("id|text\n1|a, b; c\n2|d\n", "|", [["1", "a, b; c"], ["2", "d"]]),
        ("id\ttext\n1\ta, b\n2\tc, d\n", "\t", [["1", "a, b"], ["2", "c, d"]]),
        ("name, first;name, last\nx;y\nu;v\n", ";", [["x", "y"], ["u", "v"]]),
        ("price;text\n1,50;a\n2,75;b\n", ";", [["1,50", "a"], ["2,75", "b"]]),
        ('"a;b";"c"\n"1;2";"3,4"\n', ";", [["1;2", "3,4"]]),
        ("sep=;\r\na,x;b,x\r\n1,2;3,4\r\n", ";", [["1,2", "3,4"]]),
        ("text,label\r5\" pipe,a\rb,c\r", ",", [['5" pipe', "a"], ["b", "c"]]),
        ("a,b\n\n1,2\n   \n3,4\n\n", ",", [["1", "2"], ["3", "4"]]),
        ("text\nno other column\nat all\n", ",", [["no other column"], ["at all"]]),
        ("a;b;;\n1;2;;\n3;4;;\n", ";", [["1", "2"], ["3", "4"]]),
        (",text\n0,a\n1,b\n", ",", [["0", "a"], ["1", "b"]]),
        ("a,b\n,\n1,2\n", ",", [["", ""], ["1", "2"]]),
    ],
)  # fmt: skip
def test_the_delimiter_is_found_from_header_and_body(
    tmp_path: Path, data: str, delimiter: str, rows: list[list[str]]
) -> None:
    table = table_of(tmp_path, "a.csv", data.encode())
    assert table.delimiter == delimiter
    assert as_grid(table)[1:] == rows
    if len(table.columns) > 1:
        assert f"; {DELIMITERS[delimiter]}s divide them)" in table.told()


def test_stray_quotes_of_a_tsv_file_swallow_no_rows(tmp_path: Path) -> None:
    fields = ['a 7" screen', '"so called" news', '"never closed', "plain", '"wholly quoted"', '"two ""marks"""', 'ends so"']
    lines = ["text\tlabel", *(f"{field} {n % 2}\t{field}" for n, field in enumerate(fields * 6))]
    table = table_of(tmp_path, "a.tsv", "\n".join(lines).encode())
    assert len(table) == 42
    assert [row["label"] for row in table.rows[:7]] == [*fields[:4], "wholly quoted", 'two "marks"', 'ends so"']
    assert [row["text"] for row in table.rows] == [line.split("\t")[0] for line in lines[1:]]


def test_a_doubt_that_the_first_records_leave_is_settled_by_the_rest(tmp_path: Path) -> None:
    head = "a,b;c\n" + "1,2;3\n" * 200
    assert "commas and semicolons divide all of its lines alike" in refusal(tmp_path, "a.csv", head.encode())
    table = table_of(tmp_path, "a.csv", (head + "1;3\n").encode())
    assert table.columns == ("a,b", "c")
    assert table.rows[0] == {"a,b": "1,2", "c": "3"}
    assert table_of(tmp_path, "a.csv", ("sep=,\n" + head).encode()).columns == ("a", "b;c")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", b'{"a": 1}\n[1, 2]\n', "line 2: an object is needed, and this is a list"),
        ("a.jsonl", b'\n[{"a": 1},\n', "line 2, column 11: not JSON (Expecting value); a list of objects is called .json"),
        ("a.jsonl", b'{"a": 1}\n\n  \n{"a": x}\n', "line 4, column 7: not JSON"),
        ("a.jsonl", b'{"a": 1}\r\r{"a": x}\r', "line 3, column 7: not JSON"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "line 1: '\\ud800' is half of a surrogate pair"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b"[ ] ", "has no rows"),
        ("a.json", b'{"a": 1}', "a list of objects is needed"),
        ("a.json", b"", "line 1, column 1: not JSON"),
        ("a.json", b'[\n{"a": 1},\n1]', "line 3: an object is needed, and this is a number"),
        ("a.json", b'[{"a": 1},\n {"a": "\\udfff"}]', "line 2: '\\udfff' is half of a surrogate pair"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "one object per line is called .jsonl"),
        ("a.json", b'[{"a": 1},\r\n\r\n {"a": x}]', "line 3, column 8: not JSON"),
        ("a.json", b'[{"a": 1}\n {"a": 2}]', "line 2, column 2: not JSON (Expecting ',' or ']')"),
        ("a.json", b'[{"a": 1},\n]', "line 2, column 1: not JSON"),
        ("a.json", b'[{"a": 1}]\n]', "line 2, column 1: not JSON (Extra data)"),
        ("a.json", b'[{"a": 1}', "line 1, column 10: not JSON"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": 1, "b": 2, "a": 3}\n', "line 3: not JSON (the key 'a' is given twice)"),
        ("a.json", b'[{"b": 2},\n\n{"a": 1, "a": 2}]', "line 3: not JSON (the key 'a' is given twice)"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON (maximum recursion depth"),
        ("a.json", b"[" * 100_000, "line 1: not JSON (maximum recursion depth"),
        ("a.csv", b"", "has no rows"),
        ("a.csv", b"text,label\n", "has no rows"),
        ("a.csv", b"text,label\nx,yes\n\ny\n", "line 4: 1 field, and 2 columns are needed (text, label; commas divide"),
        ("a.csv", b"text;label\nx;yes\ny\n", "line 3: 1 field, and 2 columns are needed (text, label; semicolons divide"),
        ("a.csv", b"text,label\nx, y,yes\n", "line 2: 3 fields, and 2 columns are needed"),
        ("a.csv", b"text,label\nx, y,yes\n", "put texts with commas in double quotes"),
        ("a.csv", b'label,text\n1, "x, y"\n', "take out the space before a quote that opens a field"),
        ("a.csv", b"text\nx, y\n", "line 2: 2 fields, and the first line has one column (text)"),
        ("a.csv", b"text,text\nx,y\n", "two columns have the same name, 'text'"),
        ("a.csv", b"text,,\nx,y,z\n", "two columns have values and no name"),
        ("a.csv", b'text,label\nx,y\n"u\nv,yes\nw,no\n', "line 3: not valid CSV (a quote opens here and is never closed)"),
        ("a.csv", b'text,label\nx,y\nz,"u\nv,yes\nw,no\n', "line 3: not valid CSV (a quote opens here and is never closed)"),
        ("a.csv", b'text,label\n"u\nv",yes\n"w" x,no\n', "line 4: not valid CSV (a quote opens here, and text follows"),
        ("a.csv", b'text,label\n"u,yes\nx,no\n"w,no\n', "line 2: not valid CSV (a quote opens here and is closed on line 4"),
        ("a.csv", b'sep=;\ntext;label\n"u;yes\n', "line 3: not valid CSV (a quote opens here and is never closed)"),
        ("a.csv", b'text\tlabel\n"w" x\tno\n', "in a file called .tsv quotes are text"),
        ("a.csv", b'"text,label\n', "line 1: not valid CSV (a quote opens here and is never closed)"),
        ("a.tsv", b"text\tlabel\nx\ty\tz\n", "line 2: 3 fields, and 2 columns are needed (text, label; tabs divide"),
        ("a.tsv", b'text\tlabel\n"x\ty\n\nz\n', "line 4: 1 field, and 2 columns are needed"),
        ("a.tsv", b"text,label\nx,y\nz,u\n", "has no tabs; commas seem to divide its columns: call it .csv"),
        ("a.tsv", b'text\tlabel\n"x\ty\nz"\tu\n', "line 2: a quote there may be text, or open a field of several columns"),
        ("a.csv", b"PK\x03\x04 and so on", "an Excel workbook is; call it .xlsx"),
        ("a.jsonl", b"PAR1 and so on", "is a Parquet file; call it .parquet"),
        ("a.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.xlsx", b"", "not a readable Excel workbook"),
        ("a.xlsx", b"PK\x03\x04", "not a readable Excel workbook"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0 old", "an old workbook or one with a password"),
        ("a.xls", b"\xd0\xcf\x11\xe0 old", "files of kind '.xls' are not read; use .jsonl"),
        ("a.csv.gz", b"a,b\n1,2\n", "is not compressed by gzip, as its name says; call it a.csv"),
        ("a.csv.gz", packed(b"a,b\n1,2\n" * 90)[:-12], "is damaged or cut short"),
        ("a.jsonl.gz", packed(b'{"a": 1}\n\n{"a": x}'), "line 3, column 7: not JSON"),
        ("a.csv.gz", packed(b"a,b\n\n1\n"), "line 3: 1 field"),
        ("a.gz", packed(b"text"), "files of kind 'none' are not read"),
        ("a.md", b"text", "files of kind '.md' are not read; use .jsonl"),
        ("rows", b"text", "files of kind 'none' are not read"),
        ("a.csv", b"text,label\nx\xe9,yes\n", "line 2: not UTF-8 text (0xE9 at byte 12)"),
        ("a.csv", b"text,label\rx,yes\rThe caf\xe9 is open,no\r", "line 3: not UTF-8 text (0xE9 at byte 24)"),
        ("a.csv", b"text,label\rx,yes\rThe caf\xe9 is open,no\r", "it looks like Windows-1252 ('The café is open,')"),
        ("a.jsonl", '{"a": "Хорошее место"}'.encode("cp1251"), "line 1: not UTF-8 text (0xD5 at byte 7)"),
        ("a.jsonl", '{"a": "Хорошее место"}'.encode("cp1251"), "it looks like an older encoding of its alphabet"),
        ("a.csv", "text\nねこがすきです\n".encode("shift_jis"), "it looks like an older encoding of its alphabet"),
        ("a.csv", "text\nünïcode\n".encode() + b"caf\xe9, two\n", "line 3: not UTF-8 text (0xE9 at byte 18)"),
        ("a.csv", "text\nünïcode\n".encode() + b"caf\xe9, two\n", "what stands before it is UTF-8, so mend this line"),
        ("a.jsonl", '{"a": "é 🙂'.encode()[:-1], "cut short in the middle of a character"),
        ("a.csv", "text,label\nx,y\n".encode("utf-16-le"), "looks like UTF-16 without a byte-order mark"),
        ("a.csv", codecs.BOM_UTF16_LE + b"a\x00b", "begins as UTF-16 text and is none at byte 4"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    assert expected in refusal(tmp_path, name, content)


def test_a_message_never_holds_a_whole_row_or_header(tmp_path: Path) -> None:
    word, many = "x" * 5000, ",".join(f"column {n}" for n in range(500))
    long_key = json.dumps(word).encode()
    for name, data in {
        "a.csv": f"{many}\n{word}\n".encode(),
        "b.csv": f"{word},{word}\n1,2\n".encode(),
        "c.jsonl": b"{" + long_key + b": 1, " + long_key + b": 2}\n",
        "d.tsv": f'"{word}\t{word}\n{word}\n'.encode(),
    }.items():
        refusal(tmp_path, name, data)
    assert len(table_of(tmp_path, "e.csv", f"{many}\n{many}\n".encode()).told()) < len(str(tmp_path)) + 250


def test_what_json_lacks_and_python_reads_is_no_number(tmp_path: Path) -> None:
    assert table_of(tmp_path, "a.jsonl", b'{"a": NaN, "b": [NaN, 1e400]}').rows == [{"a": None, "b": [None, float("inf")]}]


def test_columns_are_the_union_over_rows_in_order_of_appearance(tmp_path: Path) -> None:
    table = table_of(tmp_path, "a.jsonl", b'{"b": 1}\n{"a": 2, "b": 1}\n{"c": null}\n')
    assert table.columns == ("b", "a", "c")
    assert table.rows[0] == {"b": 1}


def test_each_line_of_a_text_file_is_a_row(tmp_path: Path) -> None:
    table = table_of(tmp_path, "a.txt", b'one\r\n\r\n"three, 3\r\n')
    assert [row["text"] for row in table.rows] == ["one", "", '"three, 3']
    assert table.where(2) == f"{table.file}, line 3"
    assert read_table(tmp_path / "a.txt", column="question").rows[0] == {"question": "one"}
    assert table_of(tmp_path, "a.txt", "no end\x0b of\u2028 line".encode()).rows == [{"text": "no end\x0b of\u2028 line"}]


def test_values_of_parquet_have_the_types_of_json(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 1, 31), datetime.datetime(2024, 1, 31, 12, 30)
    columns = {
        "float": pyarrow.array([0.5, float("nan")]),
        "single": pyarrow.array([0.1, None], pyarrow.float32()),
        "day": pyarrow.array([day, None]),
        "moment": pyarrow.array([moment, None], pyarrow.timestamp("ns")),
        "decimal": pyarrow.array([decimal.Decimal("1.50"), None]),
        "bytes": pyarrow.array(["é".encode(), b"\xff"]),
        "nested": pyarrow.array([{"days": [day]}, None]),
        "kind": pyarrow.array(["a", "b"]).dictionary_encode(),
    }
    table = table_of(tmp_path, "a.parquet", parquet_bytes(columns))
    assert table.rows == [
        {
            "float": 0.5, "single": 0.1, "day": "2024-01-31", "moment": "2024-01-31T12:30:00", "decimal": "1.50",
            "bytes": "é", "nested": {"days": ["2024-01-31"]}, "kind": "a",
        },
        dict.fromkeys(columns) | {"bytes": b"\xff", "kind": "b"},
    ]  # fmt: skip
    assert table.where(1) == f"{table.file}, row 2"


def test_cells_of_excel_have_the_types_of_json(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 1, 31)
    grid: list[list[Any]] = [
        [None],
        ["text", "n", "day", "moment", "flag", 2024, None],
        [None, 1.0, datetime.date(2024, 1, 31), moment, True, 0.5],
        [None, None],
        ["a", None, None, None, None, "x"],
    ]
    table = table_of(tmp_path, "a.xlsx", excel_bytes(grid))
    first = {"text": "", "n": 1, "day": "2024-01-31", "moment": "2024-01-31T00:00:00", "flag": True, "2024": 0.5}
    assert table.rows == [first, dict.fromkeys(first, "") | {"text": "a", "2024": "x"}]
    assert isinstance(table.rows[0]["n"], int)
    assert table.where(1) == f"{table.file}, row 5"


def test_characters_that_excel_writes_by_their_numbers_are_read_as_those(tmp_path: Path) -> None:
    grid: list[list[Any]] = [["text", "a_x0020_b"], ["one_x000D_\ntwo", "_x005F_x000D_"], ["_x000g_ _x00E9_", "_xD800_"]]
    rows = [{"text": "one\r\ntwo", "a b": "_x000D_"}, {"text": "_x000g_ \u00e9", "a b": "_xD800_"}]
    assert table_of(tmp_path, "a.xlsx", excel_bytes(grid)).rows == rows


def test_what_is_unclear_in_an_excel_file_is_refused(tmp_path: Path) -> None:
    grid: list[list[Any]] = [["text", "label"], ["a", "b"]]
    assert table_of(tmp_path, "a.xlsx", excel_bytes(grid, [])).rows == [{"text": "a", "label": "b"}]
    assert "2 sheets have rows (Sheet, Sheet1); keep the one that is meant" in refusal(
        tmp_path, "a.xlsx", excel_bytes(grid, grid)
    )
    assert "row 3: a formula has no value; open the file in Excel" in refusal(
        tmp_path, "a.xlsx", excel_bytes([*grid, ["c", '=="b"']])
    )
    assert "two columns have the same name, 'a'" in refusal(tmp_path, "a.xlsx", excel_bytes([["a", "a"], [1, 2]]))
    assert table_of(tmp_path, "a.xlsx", excel_bytes([*grid, ["c", "=b"]])).rows[1] == {"text": "c", "label": "=b"}


def edited(workbook: bytes, *changes: tuple[str, str]) -> bytes:
    """A workbook with changes to the files in it, patterns and what takes their place; each finds one."""
    found, out = set[str](), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            text = source.read(name).decode()
            for old, new in changes:
                text, count = re.subn(old, new, text)
                found |= {old} if count else set()
            target.writestr(name, text)
    assert found == {old for old, _ in changes}
    return out.getvalue()


def test_what_excel_and_its_like_write_is_read(tmp_path: Path) -> None:
    grid: list[list[Any]] = [["text", "label"], ["a", "b"]]
    rows = [{"text": "a", "label": "b"}]
    small = edited(excel_bytes(grid), ('<dimension ref="A1:B2"', '<dimension ref="A1:A1"'))
    assert table_of(tmp_path, "dimension.xlsx", small).rows == rows
    shown = 'name="Sheet1" sheetId="2" state="visible"'
    hidden = edited(excel_bytes(grid, grid), (shown, shown.replace("visible", "hidden")))
    assert table_of(tmp_path, "hidden.xlsx", hidden).rows == rows
    formula = edited(
        excel_bytes([*grid, ["c", '=="b"']]), ('<c r="B3">', '<c r="B3" t="str">'), ("</f><v *(/>|></v>)", "</f><v>b</v>")
    )
    assert table_of(tmp_path, "formula.xlsx", formula).rows == [*rows, {"text": "c", "label": "b"}]
    error = edited(excel_bytes([*grid, ["c", 7]]), ('<c r="B3" t="n"><v>7</v>', '<c r="B3" t="e"><v>#N/A</v>'))
    assert table_of(tmp_path, "error.xlsx", error).rows == [*rows, {"text": "c", "label": None}]


def test_excel_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    assert "pip install 'softprompt[excel]'" in refusal(tmp_path, "a.xlsx", b"PK\x03\x04")


def test_a_parquet_file_with_two_columns_of_one_name_is_told(tmp_path: Path) -> None:
    table = pyarrow.table([pyarrow.array(["a"])] * 3, names=["text", "label", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: two columns have the same name, 'text'"):
        read_table(tmp_path / "a.parquet")


def test_a_parquet_file_damaged_in_its_middle_is_told_with_the_reason(tmp_path: Path) -> None:
    data = bytearray(table_bytes(".parquet", ROWS * 200))
    data[20:60] = b"\xff" * 40
    assert "None" not in refusal(tmp_path, "a.parquet", bytes(data))


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    for suffix in (".csv", ".tsv"):
        rows = [{"text": '"' + "x" * 200_000, "label": "yes"}]
        assert table_of(tmp_path, f"a{suffix}", table_bytes(suffix, rows)).rows == rows


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_the_time_of_reading_grows_as_the_rows_do(tmp_path: Path, suffix: str) -> None:
    def seconds(count: int) -> float:
        file = tmp_path / f"{count}{suffix}"
        file.write_bytes(table_bytes(suffix, [{"text": f'the "parcel" {n}', "label": "ab"[n % 2]} for n in range(count)]))
        taken = []
        for _ in range(2):
            started = time.process_time()
            assert len(read_table(file)) == count
            taken.append(time.process_time() - started)
        return min(taken)

    assert seconds(24_000) < 20 * max(seconds(4_000), 0.02)  # as the square it would be 36 times as much


@functools.cache
def whole_bytes(suffix: str) -> bytes:
    """The same each time, though a spreadsheet says when it was written."""
    return table_bytes(suffix, ROWS)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TYPED), st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=4), st.data())
def test_a_damaged_file_is_read_or_refused_by_name(
    folder: Path, suffix: str, changes: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = bytearray(whole_bytes(suffix))
    for place, change in changes:
        at = place % (len(content) + 1)
        content[at : at + len(change)] = change
    kept = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    file = folder / f"damaged{suffix}"
    file.write_bytes(kept)
    with contextlib.suppress(DataError):
        assert len(read_table(file)) > 0


LONG = "long " * 2000


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("one long text in each row.parquet", {"text": [LONG] * 300}),
        ("in each of a list.parquet", {"text": [[LONG, LONG]] * 150}),
        ("one number in each row.parquet", {"text": [7] * 2_000_000}),
        ("lists of one number.parquet", {"text": [[7] * 1_000_000] * 2}),
        ("blank lines.csv.gz", b"text\n" + b"\n" * 3_000_000),
        ("blank lines.txt", b"\n" * 3_000_000),  # packed, and not named so
        ("blank cells.xlsx", b"<row/>" * 3_000_000),
    ],
)
def test_a_small_file_that_holds_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, name: str, columns: dict[str, list[Any]] | bytes
) -> None:
    """Where it comes from others; one's own file is read whatever it holds."""
    file = tmp_path / name
    if isinstance(columns, dict):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    elif file.suffix == ".xlsx":
        book = openpyxl.Workbook()
        book.active.append(["text"])
        book.save(file)
        with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/worksheets/sheet2.xml", columns)
    else:
        file.write_bytes(gzip.compress(columns))
    assert file.stat().st_size < 100_000
    with pytest.raises(DataError, match="holds more than 1000000 bytes unpacked"):
        read_table(file, most=1_000_000)


def test_a_bound_changes_no_row(tmp_path: Path) -> None:
    columns = {
        "text": ["a", None, "b", "a"], "sets": [["x", "y"], [], None, ["x"]], "number": [1, 2, None, 4],
        "both": [{"one": "a"}, None, {"one": None}, {"one": "b"}],
    }  # fmt: skip
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    assert read_table(file, most=100_000) == read_table(file)
    sheet = tmp_path / "rows.xlsx"
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["red", "yes"], ["blue", "no"]):
        book.active.append(row)
    book.save(sheet)
    assert read_table(sheet, most=100_000) == read_table(sheet)
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(b"text\nred\n"))
    assert read_table(packed, most=9) == read_table(packed)
    with pytest.raises(DataError, match="more than 8 bytes"):
        read_table(packed, most=8)
