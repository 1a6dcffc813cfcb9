"""Columns that are read beside the answer: other answers to the same input, as the model must say them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from softprompt.bases.base import FrozenBase
from softprompt.errors import DataError
from softprompt.rows.places import PlacedRows
from softprompt.rows.values import is_missing
from softprompt.tasks.task import Task
from softprompt.tasks.wording.template import field_text


class Said(NamedTuple):
    """An answer in a column."""

    text: str
    """As the column has it; the label that it is."""
    ids: list[int]
    """Its tokens in the words of the target, its end among them as in training."""


def answers_in(base: FrozenBase, task: Task, rows: PlacedRows, column: str) -> list[Said | None]:
    """The answer in a column of each row; None where nothing stands there.

    Raises:
        DataError: one is no text, or no label where the task has labels.
    """
    form, found = task.form, list[Said | None]()
    texts: list[str] = []
    for place, row in enumerate(rows):
        where = f"task {task.name!r}, {rows.where(place)}"
        value = row.get(column)
        if is_missing(value) or not (text := field_text(row, column, where)).strip():
            texts.append("")
            continue
        if form.labels is not None:
            label = form.spellings.label_of(text)
            if label is None:
                raise DataError(f"{where}: {text[:60]!r} in the column {column!r} is not among `labels`; mend the row")
            text = label
        texts.append(text)
    said = _said(base, task, [text for text in texts if text], column)
    of_row = iter(said)
    for text in texts:
        found.append(Said(text, next(of_row)) if text else None)
    return found


def _said(base: FrozenBase, task: Task, texts: Sequence[str], column: str) -> list[list[int]]:
    form = task.form
    if form.labels is not None:
        ids_of = dict(zip(form.labels, form.encode_labels(base), strict=True))
        return [list(ids_of[text]) for text in texts]
    end = [] if base.end_id is None else [base.end_id]
    encoded = form.encode_answers(base, texts, lambda index: f"task {task.name!r}: {column} {texts[index][:60]!r}")
    whole = [ids if base.end_ids.intersection(ids[-1:]) else ids + end for ids in encoded]
    return [ids[: form.max_new_tokens] for ids in whole]
