"""A first task file from a table: guesses which column is the text and which the answer. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from softprompt.errors import ConfigError, DataError
from softprompt.names import LONGEST_NAME, check_new_task
from softprompt.tasks.rows import Row, read_rows

_ANSWERS = ("label", "labels", "category", "class", "intent", "sentiment", "target", "answer", "output", "y")
_TEXTS = ("text", "sentence", "question", "input", "review", "message", "body", "content", "title", "prompt")

MOST_LABELS = 50
"""With more distinct answers than this the task generates them."""


def draft_task(file: Path, *, text: str | None = None, label: str | None = None, name: str | None = None) -> str:
    """The text of a task file for a table of rows.

    Args:
        file: the rows (.csv, .jsonl, .parquet ...).
        text: the input's column; by default one named like a text, else the longest.
        label: the answer's column; by default one named like an answer, else the one with the fewest values, but two.
        name: of the task; by default the file's, with a hyphen for what a name cannot have.

    Raises:
        DataError: fewer than two columns, no such column, or a row without an answer.
        NameRefused: the name is none, or one that requests have another meaning for.
    """
    task = check_new_task(name if name is not None else _name_of(file))
    rows = read_rows(file)
    columns = list(rows[0])
    if len(columns) < 2:
        raise DataError(f"{file} has only the column {columns[0]!r}; an input and an answer are needed")
    for given in (text, label):
        if given is not None and given not in columns:
            raise DataError(f"{file} has no column {given!r}; it has {', '.join(columns)}")
    answer = label or _guess_answer(rows, [column for column in columns if column != text])
    source = text or _guess_text(rows, [column for column in columns if column != answer])
    for column in (source, answer):
        if not column.replace("_", "a").replace("-", "a").isalnum():
            raise ConfigError(f"the column {column!r} cannot be named in a template; rename it to letters, digits, - and _")
    empty = [number for number, row in enumerate(rows, start=1) if _is_empty(row.get(answer))]
    if empty:
        raise DataError(
            f"{file}: the column {answer!r} is empty in {len(empty)} of {len(rows)} rows, the first of them row {empty[0]}; "
            "fill it, drop those rows, or name another column with --label"
        )
    values = sorted({str(row[answer]) for row in rows})
    config: dict[str, object] = {
        "task": task,
        "base": "builtin/tiny",
        "data": {"train": file.name},
        "input": f"{{{source}}}\n{answer.capitalize()}:",
        "target": f" {{{answer}}}",
    }
    if 2 <= len(values) <= min(MOST_LABELS, len(rows) // 2):
        config |= {"labels": values, "metric": "accuracy", "prompt_tuning_init": "LABELS"}
    else:
        config |= {"metric": "exact_match", "max_new_tokens": 32}
    config["num_virtual_tokens"] = 20
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _name_of(file: Path) -> str:
    """The file's name as a task may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:LONGEST_NAME] or "task"


def _is_empty(value: object) -> bool:
    return value is None or value != value or not str(value).strip()


class _Dumper(yaml.SafeDumper):
    """YAML that keeps a text with line breaks on one line, in double quotes."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _guess_answer(rows: Sequence[Row], columns: Sequence[str]) -> str:
    named = [column for column in columns if column.lower() in _ANSWERS]
    if named:
        return named[0]
    values = {column: len({str(row.get(column)) for row in rows}) for column in columns}
    return min(columns, key=lambda column: (values[column] < 2, values[column]))  # one value in all rows is no answer


def _guess_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    named = [column for column in columns if column.lower() in _TEXTS]
    return named[0] if named else max(columns, key=lambda column: sum(len(str(row.get(column))) for row in rows))
