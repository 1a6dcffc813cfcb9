"""Rows of an upload: JSON Lines in one of four shapes, each line checked and told by its number. No torch.

Columns as they are (`{"text": ..., "label": ...}`), a prompt with its completion, or OpenAI's conversations and preferences,
which `rows/openai_files.py` reads: of a conversation each answer that is to be learnt is a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from softprompt.errors import DataError, FieldError
from softprompt.rows.openai_files import GROUP, PAIR, conversation_rows, preference_rows
from softprompt.rows.places import PlacedRows
from softprompt.rows.sources import Row
from softprompt.rows.tables import unique_keys
from softprompt.rows.values import kind_of_json
from softprompt.text import lone_surrogate

Shape = Literal["columns", "completion", "chat", "preference"]
NAMES = {
    "columns": "columns",
    "completion": "prompt and completion",
    "chat": "messages",
    "preference": "preferred_output and non_preferred_output",
}

Line = TypeVar("Line")
Done = TypeVar("Done")


@dataclass(frozen=True)
class UploadedRows:
    """The rows of a file."""

    shape: Shape
    rows: list[Row]
    lines: list[int]
    """The line that each row stands on."""

    @property
    def group(self) -> str | None:
        """The column that rows of one line have in common, where a line may be several."""
        return GROUP if self.shape in ("chat", "preference") else None

    def placed(self, field: str) -> PlacedRows:
        """The rows with their places in the file, which a request calls so."""
        return PlacedRows(self.rows, lambda place: f"{field}, line {self.lines[place]}")


def read_upload(data: bytes, filename: str) -> UploadedRows:
    """Rows of an uploaded file.

    Raises:
        FieldError: not UTF-8, no rows, a line that is no row, or lines of several shapes; with the number of the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FieldError(f"{filename}, line {line}: no UTF-8 text ({error.reason}); convert the file", "file") from None
    texts = dict(lines_of(text))
    if not texts:
        raise FieldError(f"{filename} has no rows; write one JSON object on each line", "file")
    rows = _each(filename, texts, parse_line)
    first = next(iter(rows))
    shape = shape_of(rows[first])

    def check_shape(row: Row) -> None:
        if shape_of(row) != shape:
            raise DataError(f"another shape than line {first}, which has {NAMES[shape]}; keep to one shape")

    _each(filename, rows, check_shape)
    made = _each(filename, rows, READERS[shape])
    found = [(row, number) for number, own in made.items() for row in own]
    return UploadedRows(shape, [row for row, _ in found], [number for _, number in found])


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers."""
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _each(filename: str, lines: Mapping[int, Line], work: Callable[[Line], Done]) -> dict[int, Done]:
    """What becomes of each line, by its number, which an error tells."""
    done = {}
    for number, line in lines.items():
        try:
            done[number] = work(line)
        except DataError as error:
            raise FieldError(f"{filename}, line {number}: {error}", "file") from None
    return done


def parse_line(line: str) -> Row:
    """The object on a line.

    Raises:
        DataError: it is none, or holds half of a character.
    """
    try:
        row = json.loads(line, object_pairs_hook=unique_keys)
        half = lone_surrogate(row) if isinstance(row, dict) else None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON ({error})"
        raise DataError(f"{problem}; write one JSON object on each line") from None
    if half is not None:
        raise DataError(f"{half!a} is half of a surrogate pair and no character; mend the row")
    if not isinstance(row, dict) or not row:
        raise DataError(f"this is {kind_of_json(row)}; write one JSON object with columns on each line")
    return row


def shape_of(row: Row) -> Shape:
    """What kind of line it is, by its keys."""
    if set(PAIR[1:]) & set(row):
        return "preference"
    if "messages" in row:
        return "chat"
    return "completion" if "prompt" in row and "completion" in row else "columns"


def _completion(row: Row) -> list[Row]:
    for key in ("prompt", "completion"):
        if not isinstance(row[key], str) or not row[key].strip():
            raise DataError(f"{key} is {_shown(row[key])}; give a text that is not empty")
    return [{"prompt": row["prompt"], "completion": row["completion"].strip()}]


def _preference(row: Row) -> list[Row]:
    for key in PAIR:
        if key not in row:
            raise DataError(f"{key} is missing; a preference has {', '.join(PAIR)}")
    return preference_rows(row)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


READERS: Mapping[Shape, Callable[[Row], list[Row]]] = {
    "columns": lambda row: [row],
    "completion": _completion,
    "chat": conversation_rows,
    "preference": _preference,
}
"""What becomes of a line of each shape."""
