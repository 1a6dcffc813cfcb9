"""How rows come out of a command: JSON Lines for machines, tables for people; warnings on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from softprompt.registry.records import Version


def stderr() -> Console:
    """Console for progress and warnings; stdout is for rows alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)


def warn(message: str) -> None:
    """A warning on stderr."""
    tell(f"warning: {message}")


def tell(line: str) -> None:
    """A line on stderr: wrapped between words on a terminal, whole for whatever else reads it."""
    line = printable(line)
    if sys.stderr.isatty():
        import shutil
        import textwrap

        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    sys.stderr.write(f"{line}\n")


def emit(rows: Iterable[Mapping[str, Any]], as_json: bool, title: str, columns: Sequence[str] | None = None) -> None:
    """Print rows: compact JSON Lines for machines, each as soon as it is known, or a table for people.

    The table shows `columns` (default: those of the first row) and shortens digests; JSON always has the whole row.
    """
    if as_json:
        for row in rows:
            sys.stdout.write(json.dumps(_plain(row), separators=(",", ":"), default=str, allow_nan=False) + "\n")
            sys.stdout.flush()
        return
    _emit_table(list(rows), title, columns)


def say(line: str) -> None:
    """A line for people, below a table, wrapped between words."""
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(printable(line)))


def version_row(version: Version) -> dict[str, Any]:
    """What names a version, as rows begin with it."""
    return {"task": version.task, "version": version.number, "digest": version.digest}


def scored(value: float | None, stderr: float | None) -> str | None:
    """A score with its standard error, for people."""
    if value is None:
        return None
    return f"{value:.3f}" if stderr is None else f"{value:.3f} ±{stderr:.3f}"


def with_errors(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for people, each score with its standard error: `stderr` is that of `value`, `NAME_stderr` that of `NAME`."""
    found = []
    for row in rows:
        errors = {key.removesuffix("stderr").removesuffix("_") or "value": row[key] for key in row if key.endswith("stderr")}
        found.append({**row, **{name: scored(row.get(name), error) for name, error in errors.items()}})
    return found


def printable(text: str) -> str:
    """Text without control characters: a name or an error from elsewhere must not steer the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _emit_table(rows: Sequence[Mapping[str, Any]], title: str, columns: Sequence[str] | None) -> None:
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not rows:
        console.print(Text(f"{title}: nothing here"))
        return
    console.print(Text(title, style="italic"))  # not the table's own title, which wraps at the width of the table
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [name for name in columns or rows[0] if any(_cell(name, row.get(name)) for row in rows)]
    width = sum(1 + max(len(name), len(_cell(name, rows[0].get(name)))) for name in names)
    if len(rows) == 1 and (len(names) > _WIDEST or width > console.width):  # one long row reads better downwards
        table.show_header = False
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        room = console.width - max(map(cell_len, names)) - 4  # edges, and what stands between the columns
        for name in names:
            table.add_row(Text(name), Text(_break_words(printable(_cell(name, rows[0][name], whole=True)), room)))
        console.print(table)
        return
    shown = [[printable(_cell(name, row.get(name))) for row in rows] for name in names]
    numbers = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    whole = [number or name in (*_SHORT, *_TIMES, *_COPIED) for name, number in zip(names, numbers, strict=True)]
    widths = _widths(names, shown, whole, console.width - len(names) - 1)
    if sum(widths) + 2 * len(names) > console.width:
        table.padding = (0, 0, 0, 0)
    for name, cells, number, width in zip(names, shown, numbers, widths, strict=True):
        right = number or all("±" in cell for cell in cells if cell)
        table.add_column(Text(_wrap(name, width)), justify="right" if right else "left", overflow="fold", width=width)
    for line in zip(*shown, strict=True):
        table.add_row(*(Text(_wrap(cell, width)) for cell, width in zip(line, widths, strict=True)))
    console.print(table)


def _widths(names: Sequence[str], columns: Sequence[Sequence[str]], whole: Sequence[bool], room: int) -> list[int]:
    """How wide columns are: as wide as what stands in them where there is room, else narrowed, the widest first, as far as
    no word is broken; and further only where even that is too wide."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, (name, *cells))) for name, cells in zip(names, columns, strict=True)]
    least = []
    for name, cells, kept in zip(names, columns, whole, strict=True):
        parts = [*_pieces(name), *(cells if kept else (part for cell in cells for part in _pieces(cell)))]
        least.append(max(cell_len(part.rstrip()) for part in parts))
    for bounds in (least, [3] * len(names)):
        while sum(widths) > room and (wide := [n for n, width in enumerate(widths) if width > bounds[n]]):
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _pieces(text: str) -> list[str]:
    """A text in pieces between which a line may end: words, and the parts of a name."""
    return re.findall(r"[^\s_/@,=:-]*[\s_/@,=:-]+|[^\s_/@,=:-]+", text)


def _wrap(text: str, width: int) -> str:
    """A text in lines of at most so many columns, as far as its pieces allow."""
    from rich.cells import cell_len

    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _break_words(text: str, width: int) -> str:
    """A text whose words that are wider than so many columns, such as paths, are broken between their parts."""
    from rich.cells import cell_len

    return re.sub(r"\S+", lambda word: word[0] if cell_len(word[0]) <= width else _wrap(word[0], width), text)


_SHORT = ("digest", "fingerprint")
_TIMES = ("at", "created_at")
_COPIED = ("secret", "job")
"""What people copy from the screen; over two lines they could not."""
_WIDEST = 7
"""Columns that a table of one row may have."""


def _cell(name: str, value: Any, *, whole: bool = False) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(key, item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_cell(name, item) for item in value)
    text = str(value)
    if name in _TIMES:
        return text[:16].replace("T", " ")  # to the minute; JSON has it all
    return text[:12] if name in _SHORT and len(text) > 16 and not whole else text


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
