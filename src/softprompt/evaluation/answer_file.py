"""A file of rows with their answers beside them: filled bit by bit, resumed after a break, whole at the end. No torch."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import ConfigError, DataError
from softprompt.files import write_whole
from softprompt.rows.sheets import escaped
from softprompt.rows.sources import Row
from softprompt.rows.tables import kind_of
from softprompt.rows.values import text_of

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx")
"""What the name of such a file ends with; `.gz` may stand behind the first four."""

_OURS = "softprompt_answers"
_LONGEST_CELL = 32_767
"""Characters that a cell of Excel holds."""
_LONGEST_NUMBER = 10**15
"""Whole numbers from here on lose digits in Excel, and are texts there."""


class AnswerFile:
    """Answers to rows, in their order. Until :meth:`finish` they lie in a file beside it, `NAME.partial`."""

    def __init__(self, path: Path, rows: Sequence[Row], identity: Mapping[str, Any], *, force: bool = False) -> None:
        """Begin a file, or go on with one that was left half-way by the same call.

        Args:
            path: named as what it is to be.
            rows: what is answered.
            identity: all that the answers depend on besides the rows' texts; other answers are not gone on with.
            force: replace a file that is there.

        Raises:
            ConfigError: the kind is not written, its folder is not there, or a file would be replaced.
            DataError: the kind of file cannot hold the rows.
        """
        kind = kind_of(path)
        if kind not in KINDS:
            raise ConfigError(
                f"--output {str(path)!r}: files of kind {kind or 'none'!r} are not written; use {', '.join(KINDS)}"
            )
        if kind in KINDS[-2:] and path.suffix.lower() == ".gz":
            raise ConfigError(f"--output {str(path)!r}: {kind} is compressed already; leave .gz out")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"--output {str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
        if path.exists() and not force:
            raise ConfigError(f"--output {str(path)!r} is there already; name another file, or replace it with --force")
        _written(rows, path)  # which shows before the first answer whether it can be
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._rows = rows
        self._head = json.dumps({_OURS: 1, "rows": len(rows), **identity}, sort_keys=True, default=str)
        self.answers: list[Row] = self._read_partial()
        """Answers that are known, for the first so many rows."""
        try:
            self._file = self.partial.open("a", encoding="utf-8")
            if not self.answers:
                self._file.truncate(0)
                self._write(self._head)
        except OSError as error:
            raise ConfigError(
                f"--output {str(path)!r} cannot be written: {error.strerror or error}; mend that, or name another"
            ) from None

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, answers: Sequence[Row]) -> None:
        """Keep the answers to the next rows; they outlive the process. Raises `OSError`."""
        self.answers.extend(answers)
        self._write(*(json.dumps(answer, allow_nan=False) for answer in answers))

    def close(self) -> None:
        """Leave the file as far as it has come; nothing is left of one without answers."""
        self._file.close()
        if not self.answers:
            self.partial.unlink(missing_ok=True)

    def finish(self, columns: Sequence[str]) -> dict[str, str]:
        """Write the file whole: each row with so many of its answer's columns behind its own. Returns the new names of
        columns whose own the rows have already.

        Raises:
            DataError: the kind of file cannot hold the rows.
            OSError: it cannot be written.
        """
        self.close()
        taken = {name for row in self._rows for name in row}
        names = {column: _free(column, taken) for column in columns}
        whole = [
            {**row, **{names[column]: answer[column] for column in columns}}
            for row, answer in zip(self._rows, self.answers, strict=True)
        ]
        data = _written(whole, self.path)
        write_whole(self.path, gzip.compress(data) if self.path.suffix.lower() == ".gz" else data)
        self.partial.unlink(missing_ok=True)
        return {column: name for column, name in names.items() if column != name}

    def _write(self, *lines: str) -> None:
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()

    def _read_partial(self) -> list[Row]:
        if not self.partial.exists():
            return []
        try:
            head, *lines = self.partial.read_text(encoding="utf-8").split("\n")
            ours = isinstance(first := json.loads(head), dict) and _OURS in first
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise ConfigError(f"{str(self.partial)!r} is in the way and was not written by this command; move it away")
        if head != self._head:
            self.partial.unlink()  # of another version or other rows
            return []
        whole = lines[:-1]  # a line that a kill cut short is the last
        if lines and lines[-1]:
            self.partial.write_text("".join(f"{line}\n" for line in (head, *whole)), encoding="utf-8")
        return [json.loads(line) for line in whole]


def _free(column: str, taken: set[str]) -> str:
    """A column's name, with a number behind it where the rows have such a column already."""
    number, name = 1, column
    while name in taken:
        number += 1
        name = f"{column}_{number}"
    return name


def _written(rows: Sequence[Row], path: Path) -> bytes:
    """The bytes of a file of rows, before they are compressed.

    Raises:
        DataError: the kind of file cannot hold them.
    """
    columns, kind = list(dict.fromkeys(name for row in rows for name in row)), kind_of(path)
    for number, row in enumerate(rows if kind != ".parquet" else (), start=1):
        for column, value in row.items():
            if _has_bytes(value):
                raise DataError(
                    f"{path}: the column {column!r} of row {number} holds bytes that are no text, for which {kind} has no "
                    "form; write .parquet, or leave the column out of the rows"
                )
    return _WRITERS[kind](rows, columns, path)


def _has_bytes(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = [*value.values()]
    return isinstance(value, bytes) or (isinstance(value, list | tuple) and any(map(_has_bytes, value)))


def _cell(value: Any) -> str:
    """A value in a cell of text: as templates read it; nothing where it is missing, and JSON for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, float):  # an infinite one too, which templates refuse
        return str(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else text_of(value)


def _jsonl(rows: Sequence[Row], columns: Sequence[str], path: Path) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _json(rows: Sequence[Row], columns: Sequence[str], path: Path) -> bytes:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n".encode()


def _csv(rows: Sequence[Row], columns: Sequence[str], path: Path) -> bytes:
    text = io.StringIO(newline="")
    divided = "\t" if kind_of(path) == ".tsv" else ","
    plain, quoted = (
        csv.writer(text, delimiter=divided, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for cells in (list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)):
        # A carriage return by itself ends a line wherever the file is read, and Python puts no quotes around it.
        (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Row], columns: Sequence[str], path: Path) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    try:
        table = pyarrow.table({column: [row.get(column) for row in rows] for column in columns})
        pyarrow.parquet.write_table(table, buffer)
    except (pyarrow.lib.ArrowException, OverflowError) as error:
        raise DataError(f"{path}: Parquet wants one type in a column ({error}); write .jsonl") from None
    return buffer.getvalue()


def _excel(rows: Sequence[Row], columns: Sequence[str], path: Path) -> bytes:
    try:
        import openpyxl
        from openpyxl.utils.exceptions import IllegalCharacterError
    except ModuleNotFoundError:
        raise DataError(f"{path}: writing Excel needs the openpyxl package; pip install 'softprompt[excel]'") from None
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for number, row in enumerate([dict(zip(columns, columns, strict=True)), *rows], start=1):
        for place, column in enumerate(columns, start=1):
            value, cell = row.get(column), sheet.cell(number, place)
            if isinstance(value, bool | int | float) and abs(value) < _LONGEST_NUMBER:
                cell.value = value
                continue
            text = _cell(value)
            if len(text) > _LONGEST_CELL:
                raise DataError(
                    f"{path}: a cell of Excel holds {_LONGEST_CELL} characters, and one has {len(text)}; write .csv"
                )
            try:
                cell.value = escaped(text)
                cell.data_type = "s"  # a text that begins with `=` is no formula
            except IllegalCharacterError:
                raise DataError(f"{path}: Excel cannot hold a control character in {text[:60]!r}; write .csv") from None
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


_WRITERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".xlsx": _excel}
