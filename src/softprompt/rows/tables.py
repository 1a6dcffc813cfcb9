"""Tables: rows of a file of any kind that is read, and where in the file each stands. No torch."""

from __future__ import annotations

import codecs
import functools
import gzip
import io
import json
import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.errors import DataError
from softprompt.rows.delimited import DELIMITERS, LINE_END, Records, read_csv, read_tsv
from softprompt.rows.places import PlacedRows
from softprompt.rows.sheets import Cells, read_excel, read_parquet, too_large
from softprompt.rows.values import Row, kind_of_json, listing, short
from softprompt.text import lone_surrogate, plural

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt")
"""What the name of a table ends with; `.gz` may stand behind it."""

_GZIP = b"\x1f\x8b"
_MAGIC = {b"PK\x03\x04": (".xlsx", "a zip archive, as an Excel workbook is"), b"PAR1": (".parquet", "a Parquet file")}
_MARKS = {  # the longest first: a mark of UTF-32 begins with one of UTF-16
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Table:
    """Rows of a file. Their values have the types of JSON."""

    file: Path
    rows: list[Row]
    lines: Sequence[int]
    """The line on which each row begins, or its row in a sheet."""
    columns: tuple[str, ...]
    """All columns of all rows, in order of first appearance."""
    delimiter: str | None = None
    """What divides the columns of a CSV or TSV file."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def where(self, index: int) -> str:
        """Where a row stands, for a message."""
        return self._where(str(self.file), index)

    def placed(self, name: str) -> PlacedRows:
        """Its rows with their places in it; messages call the file by this name."""
        return PlacedRows(self.rows, functools.partial(self._where, name))

    def _where(self, name: str, index: int) -> str:
        kind, line = kind_of(self.file), self.lines[index]
        if kind == ".json":  # all of which may stand on one line
            return f"{name}, row {index + 1} (line {line})"
        return f"{name}, {'row' if kind in ('.parquet', '.xlsx') else 'line'} {line}"

    def told(self) -> str:
        """What was read: the count, the columns and what divides them."""
        divided = f"; {DELIMITERS[self.delimiter]}s divide them" if self.delimiter and len(self.columns) > 1 else ""
        rows, columns = plural(len(self), "row"), plural(len(self.columns), "column")
        return f"{rows} of {self.file} with {columns} ({listing(self.columns)}{divided})"


def kind_of(file: str | Path) -> str:
    """What a file's name ends with, in lower case, a `.gz` behind it left out."""
    name = Path(str(file).lower())
    return Path(name.stem).suffix if name.suffix == ".gz" else name.suffix


def is_table(file: str | Path) -> bool:
    """Whether a file's name is that of a table."""
    return kind_of(file) in SUFFIXES


def read_table(file: Path, *, column: str = "text", most: int | None = None) -> Table:
    """Rows of a JSONL, JSON, CSV, TSV, Parquet, Excel or text file, compressed by gzip or not.

    Args:
        file: named as what it is.
        column: what the one column of a text file is called, of which each line is a row.
        most: bytes that it may hold unpacked, where it comes from others: a small file can hold any number of them.

    Raises:
        DataError: unknown kind, not readable, not what its name says, empty, or too large unpacked.
    """
    kind = kind_of(file)
    if kind not in SUFFIXES:
        mend = "; save it as .xlsx or .csv" if kind in (".xls", ".xlsb", ".xlsm", ".ods") else ""
        raise DataError(f"{file}: files of kind {kind or 'none'!r} are not read; use {', '.join(SUFFIXES)}{mend}")
    data = _bytes(file, most)
    if kind in (".parquet", ".xlsx"):
        cells = (read_parquet if kind == ".parquet" else read_excel)(data, str(file), most)
        table = _of_cells(file, cells)
    else:
        table = _of_text(file, kind, _decoded(data, file), column)
    if not table.rows:
        raise DataError(f"{file} has no rows; give a file with some")
    return table


def _bytes(file: Path, most: int | None) -> bytes:
    try:
        data = file.read_bytes()
        if data.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                unpacked = packed.read(-1 if most is None else most + 1)
            if most is not None and len(unpacked) > most:
                raise too_large(str(file), most)
            return unpacked
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file} is damaged or cut short: it cannot be decompressed ({error}); fetch or make it again"
        ) from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; mend that, or name another") from None
    if file.suffix.lower() == ".gz":
        raise DataError(f"{file} is not compressed by gzip, as its name says; call it {file.stem}")
    return data


def _decoded(data: bytes, file: Path) -> str:
    """Text in UTF-8, or in what a byte-order mark says."""
    for magic, (suffix, what) in _MAGIC.items():
        if data.startswith(magic):
            raise DataError(f"{file} is {what}; call it {suffix}")
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    encoding = _MARKS.get(mark, "utf-8")
    if not mark and data[:1000].count(0) * 4 > len(data[:1000]):
        raise DataError(f"{file} is not UTF-8 text; it looks like UTF-16 without a byte-order mark; save it as UTF-8")
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        start = error.start + len(mark)
        if encoding != "utf-8":
            name = encoding[:6].upper()
            raise DataError(f"{file} begins as {name} text and is none at byte {start}; save it as UTF-8") from None
        raise DataError(_not_utf8(data, start, file)) from None


def _not_utf8(data: bytes, start: int, file: Path) -> str:
    before, rest = data[:start], data[start : start + 1000]
    line = len(LINE_END.findall(before.decode("latin-1"))) + 1
    where = f"{file}, line {line}: not UTF-8 text (0x{data[start]:02X} at byte {start})"
    if len(data) - start < 4 and not before.isascii():
        return f"{where}; the file seems to be cut short in the middle of a character; fetch or make it again"
    if not before.isascii():
        return f"{where}; what stands before it is UTF-8, so mend this line"
    name = shlex.quote(file.name)
    foreign = sum(byte >= 0x80 for byte in rest)
    if foreign * 4 > sum(byte >= 0x80 or chr(byte).isalpha() for byte in rest):
        looks = "an older encoding of its alphabet (Windows-1251, GB18030, Shift JIS, ...)"
        how = f"iconv -f ENCODING -t UTF-8 {name} > utf8-{name}"
        return f"{where}; it looks like {looks}; save it as UTF-8, or convert it: {how}"
    begin = max(before.rfind(b"\n"), before.rfind(b"\r"), start - 20) + 1
    shown = re.split(r"[\r\n]", data[begin : start + 10].decode("cp1252", "replace"))[0]
    return (
        f"{where}; it looks like Windows-1252 ({shown!r}); save it as UTF-8, or convert it: "
        f"iconv -f CP1252 -t UTF-8 {name} > utf8-{name}"
    )


def _of_text(file: Path, kind: str, text: str, column: str) -> Table:
    if kind == ".txt":
        lines = LINE_END.split(text)
        texts = lines if lines[-1] else lines[:-1]
        return Table(file, [{column: line} for line in texts], range(1, len(texts) + 1), (column,))
    if kind in (".csv", ".tsv"):
        records = (read_tsv if kind == ".tsv" else read_csv)(text, str(file))
        return _of_cells(file, records)
    rows, lines_of = (_jsonl if kind == ".jsonl" else _json)(text, file)
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    return Table(file, rows, lines_of, tuple(columns))


def _of_cells(file: Path, cells: Records | Cells) -> Table:
    """A table of rows that all have a cell in each column. Columns without a name and without a value are left out."""
    names = cells.names
    kept = [at for at, name in enumerate(names) if name.strip() or any(row[at] not in ("", None) for row in cells.fields)]
    columns = tuple(names[at] for at in kept)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        called = f"the same name, {short(twice)}" if twice.strip() else "values and no name"
        raise DataError(f"{file}: two columns have {called}; name each column, and differently")
    if len(kept) < len(names):
        rows = [dict(zip(columns, [row[at] for at in kept], strict=True)) for row in cells.fields]
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in cells.fields]
    return Table(file, rows, cells.lines, columns, cells.delimiter)


_MEND = "; mend the line"


def unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object, as `object_pairs_hook`. JSON lets a key come twice, and Python would keep the last without a word.

    Raises:
        ValueError: a key comes twice.
    """
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {short(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return row


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


_JSON = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_constant)


def row_in(text: str, where: str) -> Row | None:
    """The row that a text holds as a JSON object, or None where it is no such object.

    Raises:
        DataError: the object has a key twice, or half of a character.
    """
    if not text.lstrip().startswith("{"):
        return None
    try:
        row: Row = _JSON.decode(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    except ValueError as error:
        raise DataError(f"{where}: {error}; mend the JSON object") from None
    if half := lone_surrogate(row):  # JSON can escape what no text can hold
        raise DataError(f"{where} holds {half!r}, half of a surrogate pair; mend it")
    return row


def _not_json(where: str, line: int, error: ValueError | RecursionError, mend: str = _MEND) -> DataError:
    """`line` is where the text of the error begins."""
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"{where}, line {line + error.lineno - 1}, column {error.colno}: not JSON ({error.msg}){mend}")
    return DataError(f"{where}, line {line}: not JSON ({error}){mend}")


def _checked(row: object, text: str, where: str, line: int, mend: str = _MEND) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}, line {line}: an object is needed, and this is {kind_of_json(row)}{mend}")
    if "\\u" in text and (half := lone_surrogate(row)):
        raise DataError(f"{where}, line {line}: {half!r} is half of a surrogate pair and no character; mend the row")
    return row


def _jsonl(text: str, file: Path) -> tuple[list[Row], list[int]]:
    rows: list[Row] = []
    lines: list[int] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        mend = "; a list of objects is called .json" if not rows and line.lstrip().startswith("[") else _MEND
        try:
            row = _JSON.decode(line.rstrip("\n"))
        except (ValueError, RecursionError) as error:
            raise _not_json(str(file), number, error, mend) from None
        rows.append(_checked(row, line, str(file), number, mend))
        lines.append(number)
    return rows, lines


def _json(text: str, file: Path) -> tuple[list[Row], list[int]]:
    """Rows of a list, each with the line on which it begins; one is decoded after another."""
    rows: list[Row] = []
    lines: list[int] = []
    text = LINE_END.sub("\n", text) if "\r" in text else text
    line, counted = 1, 0
    position = _after_space(text, 0)
    try:
        if not text.startswith("[", position):
            _, end = _JSON.raw_decode(text, position)
            several = text.startswith("{", _after_space(text, end))
            mend = "; one object per line is called .jsonl" if several else "; put it in one, in brackets"
            raise DataError(f"{file}: a list of objects is needed{mend}")
        position = _after_space(text, position + 1)
        while rows or not text.startswith("]", position):
            line, counted = line + text.count("\n", counted, position), position
            row, end = _JSON.raw_decode(text, position)
            rows.append(_checked(row, text[position:end], str(file), line))
            lines.append(line)
            position = _after_space(text, end)
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = _after_space(text, position + 1)
        if (end := _after_space(text, position + 1)) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        start = 1 if isinstance(error, json.JSONDecodeError) else line  # its position is in the whole text
        raise _not_json(str(file), start, error) from None
    return rows, lines


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
