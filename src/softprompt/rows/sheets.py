"""Tables with typed cells: Parquet files and Excel workbooks. No torch."""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softprompt.errors import DataError, reason_of
from softprompt.rows.values import listing, plain, text_of

_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_TIME = re.compile("[hHsS]")
"""In the format of a cell that shows a time."""

_ESCAPED, _LIKE_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_"), re.compile("_(?=x[0-9A-Fa-f]{4}[_\r])")
"""A character in the text of a workbook by its number (ST_Xstring of ECMA-376), as Excel writes those that XML has no form
for or reads as others; and the `_` of a text that would be read as one."""

Sheets = dict[str, dict[int, list[Any]]]
"""By the name of a sheet and the number of a row, the rows that are not blank."""


@dataclass(frozen=True)
class Cells:
    """Names of columns, and the values of the rows below them, each with its row in the sheet."""

    names: list[str]
    fields: Sequence[Sequence[Any]]
    lines: Sequence[int]
    delimiter: None = None


XML = 8
"""How much longer the XML of a workbook may be than its bound: marks stand around each cell."""


def too_large(where: str, most: int) -> DataError:
    """The refusal of a file that holds more than it may."""
    return DataError(f"{where} holds more than {most} bytes unpacked, the most that is taken; split it")


def read_parquet(data: bytes, where: str, most: int | None = None) -> Cells:
    """Cells of a Parquet file; NaN is null.

    Raises:
        DataError: it is none, is damaged, or holds more than `most` bytes unpacked, or so many values.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        table = file.read() if most is None else _read_within(data, file.metadata, where, most)
        columns = [_values(column) for column in table.columns]
    except (pyarrow.lib.ArrowException, ValueError, OverflowError, OSError) as error:
        raise DataError(f"{where}: not a readable Parquet file ({reason_of(error)}); save it again") from None
    return Cells(list(table.schema.names), list(zip(*columns, strict=True)), range(1, table.num_rows + 1))


def _read_within(data: bytes, metadata: Any, where: str, most: int) -> Any:
    """A file's table, where that holds no more than `most` bytes. A value that comes again and again is stored once, so
    texts are measured before any is made."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
    if max(sum(one.total_uncompressed_size for one in chunks), sum(one.num_values for one in chunks)) > most:
        raise too_large(where, most)
    texts = sorted({one.path_in_schema for one in chunks if one.physical_type == "BYTE_ARRAY"})
    table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), read_dictionary=texts).read()
    size, columns = 0, []
    for column in table.columns:
        for chunk in column.chunks:
            flat = chunk
            while pyarrow.types.is_list(flat.type):
                flat = flat.flatten()
            if pyarrow.types.is_dictionary(flat.type):
                lengths = pyarrow.compute.binary_length(flat.dictionary)
                size += pyarrow.compute.sum(lengths.take(flat.indices)).as_py() or 0
        if size > most:
            raise too_large(where, most)
        kind = column.type
        columns.append(column.cast(kind.value_type) if pyarrow.types.is_dictionary(kind) else column)
    return pyarrow.table(columns, names=table.column_names)


def _values(column: Any) -> list[Any]:
    """The values of a column in the types of JSON."""
    from pyarrow import types

    kind, values = column.type, column.to_pylist()
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return list(values)
    if types.is_float32(kind):
        import numpy

        return [plain(None if value is None else numpy.float32(value)) for value in values]
    return [plain(value) for value in values]


def read_excel(data: bytes, where: str, most: int | None = None) -> Cells:
    """Cells of the only visible sheet of an Excel workbook that has any; the first row that is not blank has the names.

    An empty cell is empty text, an error such as #N/A is null, a whole number has no point, a date without a time is a date.

    Raises:
        DataError: openpyxl is not installed, it is no workbook, several sheets have rows, a formula has no value, or it
            holds more than `most` bytes unpacked.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(f"{where}: Excel files need the openpyxl library; pip install 'softprompt[excel]'") from None
    if data.startswith(_OLD_OFFICE):
        raise DataError(f"{where} is an old workbook or one with a password; save it as .xlsx without one, or as .csv")
    try:
        if most is not None:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:  # which gives out no more of a file than it says here
                if sum(info.file_size for info in archive.infolist()) > XML * most:
                    raise too_large(where, most)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and checks of cells, which no row has
            sheets, formulas = _sheets(openpyxl, data, values=False)
            if formulas:
                sheets, _ = _sheets(openpyxl, data, values=True)
    except DataError:
        raise
    except Exception as error:  # the library and what it reads with raise many kinds; none of them is ours
        raise DataError(f"{where}: not a readable Excel workbook ({reason_of(error)}); save it again") from None
    filled = {title: rows for title, rows in sheets.items() if rows}
    if len(filled) > 1:
        raise DataError(f"{where}: {len(filled)} sheets have rows ({listing(list(filled))}); keep the one that is meant")
    title, rows = next(iter(filled.items()), ("", {}))
    for sheet, row, column in formulas:
        if sheet == title and rows.get(row, [])[column : column + 1] in ([], [""]):
            raise DataError(f"{where}, row {row}: a formula has no value; open the file in Excel and save it")
    width = max(map(len, rows.values()), default=0)
    lines = list(rows)
    padded = [cells + [""] * (width - len(cells)) for cells in rows.values()]
    names = [text_of(name) if name is not None else "" for name in padded[0]] if padded else []
    return Cells(names, padded[1:], lines[1:])


def _sheets(openpyxl: Any, data: bytes, *, values: bool) -> tuple[Sheets, list[tuple[str, int, int]]]:
    """The visible sheets, and the cells that hold formulas: sheet, row, column. With `values` their last values
    are read, which hides that they are formulas."""
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=values)
    sheets: Sheets = {}
    formulas: list[tuple[str, int, int]] = []
    try:
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                continue
            sheet.reset_dimensions()  # some programs write wrong ones, and rows behind them would be lost
            rows = sheets[sheet.title] = {}
            for number, cells in enumerate(sheet.iter_rows(), start=1):
                formulas += [(sheet.title, number, at) for at, cell in enumerate(cells) if cell.data_type == "f"]
                row = [_value(cell) for cell in cells]
                if any(value != "" for value in row):
                    rows[number] = row
    finally:
        book.close()
    return sheets, formulas


def _value(cell: Any) -> Any:
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        return None
    if isinstance(value, str) and cell.data_type != "f":
        return _unescaped(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time() and not _TIME.search(cell.number_format):
        value = value.date()
    return plain(value)


def escaped(text: str) -> str:
    """A text as a workbook holds it: XML makes a line feed of a carriage return, so that one stands there by its number."""
    return _LIKE_ESCAPED.sub("_x005F_", text).replace("\r", "_x000D_")


def _unescaped(text: str) -> str:
    """What :func:`escaped` was given, and what Excel shows; half a character stays as it is written."""

    def character(found: re.Match[str]) -> str:
        number = int(found[1], 16)
        return found[0] if 0xD800 <= number < 0xE000 else chr(number)

    return _ESCAPED.sub(character, text)
