"""Text divided by delimiters: CSV, whose delimiter is found, and TSV, in which quotes are text. No torch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from softprompt.errors import DataError
from softprompt.rows.values import listing
from softprompt.text import plural

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""What may divide the fields of a CSV file, the likeliest first, with its name."""

HEAD = 100
"""Records that the delimiter is found from, the header among them; all of them where these leave a doubt."""

LONGEST_CELL = 1 << 30
"""Characters of one cell of a CSV file; Python's own bound of 131,072 is short for a document."""

LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')
_TAB_FIELD = re.compile(r'(?:^|\t)("[^"]*+(?:""[^"]*+)*+"(?=\t|\Z)|[^\t]*+)')
_TOLD = re.compile(r'"?sep=([,;|\t])"?(?:\r\n|\r|\n)', re.IGNORECASE)
"""The first line by which Excel is told a delimiter."""


@dataclass(frozen=True)
class Records:
    """Names of columns, and the fields of the records below them, each with the line on which it begins."""

    names: list[str]
    fields: list[list[str]]
    lines: list[int]
    delimiter: str


class _Fault(Exception):
    """What is wrong in a text, and on which line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class _WrongQuote(Exception):
    """A quoted field that is never closed, or behind which text stands: where it opens and ends in the text."""

    def __init__(self, opened: int, closed: int | None) -> None:
        super().__init__(opened, closed)
        self.opened, self.closed = opened, closed


def read_csv(text: str, where: str) -> Records:
    """Records of CSV. The delimiter is found from header and body, or told by a line `sep=;` before them.

    Raises:
        DataError: a quote is never closed, a record has too few or too many fields, or two delimiters fit alike.
    """
    told = _TOLD.match(text)
    delimiter = told[1] if told else _find_delimiter(text, where)
    try:
        return _quoted_records(text[told.end() :] if told else text, delimiter, 1 if told else 0)
    except _Fault as fault:
        raise DataError(f"{where}, line {fault.line}: {fault}") from None


def read_tsv(text: str, where: str) -> Records:
    """Records of TSV: a record a line, quotes are text, and only a field that is wholly quoted loses its quotes. Where the
    lines do not fit together so, fields in quotes may hold tabs and line breaks, as in CSV.

    Raises:
        DataError: a line has too few or too many fields, no tab divides it, or it can be read in two ways.
    """
    quoted: Records | None = None
    if '"' in text:
        with suppress(_Fault):
            quoted = _quoted_records(text, "\t", 0)
    try:
        records = _line_records(text)
    except _Fault as fault:
        if quoted is None:
            raise DataError(f"{where}, line {fault.line}: {fault}") from None
        return quoted
    if quoted is not None and (quoted.names, quoted.fields) != (records.names, records.fields):
        pairs = zip([quoted.names, *quoted.fields], [records.names, *records.fields], [1, *records.lines], strict=False)
        line = next((line for one, other, line in pairs if one != other), 1)
        raise DataError(
            f"{where}, line {line}: a quote there may be text, or open a field of several columns or lines; "
            "write quotes that are text as two in a field in quotes, or save the file as CSV"
        )
    if len(records.names) == 1:
        for other in DELIMITERS:
            if other != "\t" and _fit(text, other, HEAD) > (True, False):
                raise DataError(
                    f"{where} has no tabs; {DELIMITERS[other]}s seem to divide its columns: call it .csv, or put tabs there"
                )
    return records


def _find_delimiter(text: str, where: str) -> str:
    """The delimiter that divides header and body alike; of several that divide the header, the one that most records fit."""
    fits = {delimiter: _fit(text, delimiter, HEAD) for delimiter in DELIMITERS}
    best = [delimiter for delimiter, fit in fits.items() if fit == max(fits.values())]
    if len(best) > 1 and fits[best[0]] > _NO_COLUMNS:
        fits = {delimiter: _fit(text, delimiter, None) for delimiter in best}
        best = [delimiter for delimiter, fit in fits.items() if fit == max(fits.values())]
        if len(best) > 1 and fits[best[0]][0]:
            raise DataError(
                f"{where}: {DELIMITERS[best[0]]}s and {DELIMITERS[best[1]]}s divide all of its lines alike; "
                f"put the names of columns that hold one in double quotes, or begin the file with the line sep={best[0]}"
            )
    return best[0]


_NO_COLUMNS = (False, False, 0.0)


def _fit(text: str, delimiter: str, most: int | None) -> tuple[bool, bool, float]:
    """How well a delimiter divides the first records: whether all have as many fields as the header, two at least; whether
    quotes stand only around fields and doubled inside them; and the share of records that fit. In order of weight."""
    counts: list[int] = []
    clean = whole = True
    try:
        for count, is_clean in islice(_scan(text, delimiter), most):
            counts.append(count)
            clean &= is_clean
    except _WrongQuote:
        whole = False
    counts = [count for count in counts if count]
    if not counts or counts[0] < 2:
        return _NO_COLUMNS
    fitting = counts.count(counts[0])
    even = whole and fitting == len(counts)
    return even, even and clean, fitting / (len(counts) + (not whole))


def _scan(text: str, delimiter: str) -> Iterator[tuple[int, bool]]:
    """For each record, how many fields it has (0 for a blank line), and whether no quote stands inside a bare field.

    Raises:
        _WrongQuote: of the first one.
    """
    bare = re.compile(f"[^{re.escape(delimiter)}\r\n]*+")
    position = start = fields = 0
    clean = True
    while True:
        if text.startswith('"', position):
            field = _QUOTED.match(text, position)
            if field is None:
                raise _WrongQuote(position, None)
            if text[field.end() : field.end() + 1] not in (delimiter, "\r", "\n", ""):
                raise _WrongQuote(position, field.end())
        else:
            field = bare.match(text, position)
            assert field is not None  # it matches nothing, too
            clean &= '"' not in field[0]
        position, fields = field.end(), fields + 1
        if text.startswith(delimiter, position):
            position += 1
            continue
        yield (fields if fields > 1 or text[start:position].strip() else 0), clean
        end = LINE_END.match(text, position)
        if end is None or end.end() == len(text):
            return
        position = start = end.end()
        fields, clean = 0, True


def _quoted_records(text: str, delimiter: str, above: int) -> Records:
    """Records of CSV, `above` lines further down in the file than in the text.

    Raises:
        _Fault: as `read_csv` says.
    """
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    records = Records(names, [], [], delimiter)
    line = above + 1
    try:
        for record in reader:
            if not names:
                names.extend(record)
            elif record and (len(record) > 1 or len(names) == 1 or record[0].strip()):  # else a blank line
                if len(record) != len(names):
                    raise _Fault(line, _wrong_count(record, names, delimiter))
                records.fields.append(record)
                records.lines.append(line)
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise _quote_fault(text, delimiter, above) or _Fault(line, f"not valid CSV ({error}); mend the line") from None
    return records


def _quote_fault(text: str, delimiter: str, above: int) -> _Fault | None:
    try:
        for _ in _scan(text, delimiter):
            pass
    except _WrongQuote as wrong:
        opened, closed = (
            None if position is None else above + 1 + len(LINE_END.findall(text, 0, position))
            for position in (wrong.opened, wrong.closed)
        )
        assert opened is not None
        mend = 'a quote inside a field in quotes is written twice ("")'
        if delimiter == "\t":
            mend += "; in a file called .tsv quotes are text"
        if closed is None:
            return _Fault(opened, f"not valid CSV (a quote opens here and is never closed); {mend}")
        lines = "here" if opened == closed else f"here and is closed on line {closed}"
        return _Fault(opened, f"not valid CSV (a quote opens {lines}, and text follows behind it); {mend}")
    return None


def _line_records(text: str) -> Records:
    """Records of TSV, each a line.

    Raises:
        _Fault: a line has another number of fields than the first.
    """
    if "\r" in text:
        text = LINE_END.sub("\n", text)
    names: list[str] = []
    records = Records(names, [], [], "\t")
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split("\t")
        if '"' in line:
            if names and len(fields) != len(names):
                fields = _TAB_FIELD.findall(line)
            fields = [_unquoted(field) for field in fields]
        if not line or (len(fields) != len(names) and not line.strip()):
            continue
        if not names:
            names.extend(fields)
        elif len(fields) != len(names):
            raise _Fault(number, _wrong_count(fields, names, "\t"))
        else:
            records.fields.append(fields)
            records.lines.append(number)
    return records


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _QUOTED.fullmatch(field) else field


def _wrong_count(record: list[str], names: list[str], delimiter: str) -> str:
    count = len(record)
    fields = plural(count, "field")
    name = DELIMITERS[delimiter]
    if len(names) == 1:
        found = f"the first line has one column ({listing(names)})"
    else:
        found = f"{len(names)} columns are needed ({listing(names)}; {name}s divide the first line)"
    if any(field.startswith(' "') for field in record):
        return f"{fields}, and {found}; take out the space before a quote that opens a field"
    if count > len(names) and delimiter != "\t":
        return f"{fields}, and {found}; put texts with {name}s in double quotes"
    return f"{fields}, and {found}; mend the line"
