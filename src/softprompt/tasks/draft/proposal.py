"""What a column of answers is taken for: one label, a set of labels, a number or free text; and why. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softprompt.errors import DataError
from softprompt.rows.values import is_missing, short
from softprompt.tasks.answers.kinds import NUMBER, ONE, SEPARATOR, SET, has_fraction, labels_in, number_of
from softprompt.tasks.answers.labels import compose, counted, fold_label, infer_labels
from softprompt.text import plural

_SCALES = frozenset("rating ratings stars star score scores grade grades points level severity".split())
"""Columns of these names hold places on a scale, where they hold numbers."""
_MARKS = (SEPARATOR, "|", ",")
LONGEST_SCALE = 20
"""Places of a scale at most; of more numbers each is generated."""
RARE = 10
"""A label with so many times fewer rows than another is rare."""


@dataclass(frozen=True)
class Proposal:
    """What answers are, as a task file says it."""

    labels: tuple[str, ...] | None
    told: str
    """In words that go on from "the answers are"."""
    keys: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str | None:
        """The kind of answers, where it is not one label or free text."""
        return self.keys.get("problem_type")


def propose(
    column: str, values: Sequence[object], texts: Sequence[str], *, fold: bool = False, problem_type: str | None = None
) -> Proposal:
    """What a column's answers are, as its name, its values and their texts tell, or as `problem_type` says.

    Args:
        fold: take each label in its most frequent spelling alone.

    Raises:
        DataError: the values are not of the kind that `problem_type` names.
    """
    labels, told = infer_labels(texts, fold=fold)
    found = None
    if problem_type in (None, SET):
        found = _set(values, fold=fold, asked=problem_type is not None)
    if problem_type in (None, NUMBER) and found is None:
        found = _number(column, texts, labels, asked=problem_type is not None)
    if found is not None:
        return found
    if problem_type == ONE and labels is None:
        raise DataError(f"the answers of {column!r} are {told}; leave --problem-type out")
    if labels is None:
        return Proposal(None, told)
    counts = _counts(texts, labels, fold=fold)
    notes = rarity(counts)
    if len(labels) > 2 and problem_type is None and all(number_of(label) is not None for label in labels):
        notes += (f"where the numbers are places on a scale, --problem-type {NUMBER} judges answers by their error",)
    return Proposal(labels, f"{told}: {counted(counts)}", notes=notes)


def rarity(counts: Mapping[str, int]) -> tuple[str, ...]:
    """That labels are rare beside others, and what helps them."""
    (most, top), (least, few) = max(counts.items(), key=lambda it: it[1]), min(counts.items(), key=lambda it: it[1])
    if few * RARE > top:
        return ()
    return (
        f"{least!r} has {plural(few, 'row')}, and {most!r} {top}: `class_weights: balanced` makes labels count alike in "
        "training, and a `metric` that is the mean of the labels' F1 in judging",
    )


def is_list(values: Sequence[object]) -> bool:
    """Whether values are lists of what labels may be."""
    there = [value for value in values if not is_missing(value)]
    if not there or not any(isinstance(value, list) for value in there):
        return False
    try:
        return all(isinstance(value, list) and labels_in(value, SEPARATOR) is not None for value in there)
    except ValueError:
        return False


def _set(values: Sequence[object], *, fold: bool, asked: bool) -> Proposal | None:
    if is_list(values):
        divided = {SEPARATOR: "as the rows have lists"}
    else:
        texts = [value for value in values if isinstance(value, str)]
        divided = {mark: f"divided by {mark!r}" for mark in _MARKS if any(mark in text for text in texts)}
        divided = divided or ({SEPARATOR: "one in each row"} if asked else {})
    for mark, why in divided.items():
        try:
            rows = [labels_in(value, mark) for value in values]
        except ValueError:
            continue
        parts = [label for row in rows for label in row]
        labels, _ = infer_labels(parts, fold=fold)
        several = sum(len(row) > 1 for row in rows)
        wholes = {tuple(sorted(row)) for row in rows}
        # Of texts that are no sets, such as places with their states, parts are as many as wholes.
        looks_so = is_list(values) or (several * 10 >= len(rows) and len(set(parts)) < len(wholes))
        if labels is None or not (asked or looks_so) or any(SEPARATOR in label for label in labels):
            continue
        counts, none = _counts(parts, labels, fold=fold), sum(not row for row in rows)
        told = f"sets of {len(labels)} labels, {why}; {several} of {len(rows)} rows have several and {none} none"
        keys = {"problem_type": SET} | ({"label_separator": mark} if mark != SEPARATOR else {})
        return Proposal(labels, f"{told}: {counted(counts)}", keys, rarity(counts))
    if asked:
        raise DataError(
            f"the answers are no sets of labels, such as {short(next(iter(values), None))}; give lists, or texts with "
            f"one of {' '.join(_MARKS)} between labels that repeat, or leave --problem-type out"
        )
    return None


def _number(column: str, texts: Sequence[str], labels: tuple[str, ...] | None, *, asked: bool) -> Proposal | None:
    wrong = next((place for place, text in enumerate(texts) if number_of(text) is None or _is_code(text)), None)
    if wrong is not None:
        if asked:
            raise DataError(
                f"row {wrong + 1}: the answer {short(texts[wrong])} is no number; mend it, or leave --problem-type out"
            )
        return None
    different = len(set(texts))
    if labels is None or len(labels) > LONGEST_SCALE:
        if not asked and different * 10 < len(texts):
            return None
        told = f"numbers: {different} different ones in {len(texts)} rows; they are generated, and judged by their error"
        note = "where a number that is nearly right is wrong, leave `problem_type` and `metric: mae` out of the file"
        return Proposal(None, told, {"problem_type": NUMBER}, () if asked else (note,))
    scale = column.strip().lower() in _SCALES
    if not asked and (len(labels) < 3 or not (scale or any(map(has_fraction, labels)))):
        return None
    why = "as you say" if asked else f"by the name of {column!r}" if scale else "as some are no whole numbers"
    unique = {fold_label(label): label for label in labels}
    ordered = tuple(sorted(unique.values(), key=lambda label: number_of(label) or 0.0))
    counts = _counts(texts, ordered, fold=True)
    told = f"numbers on a scale of {len(ordered)}, {why}; the expectation over them is the answer, judged by its error"
    return Proposal(ordered, f"{told}: {counted(counts)}", {"problem_type": NUMBER})


def _is_code(text: str) -> bool:
    """Whether a number is none but a code: it begins with a zero that counts for nothing."""
    digits = text.strip().lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


def _counts(texts: Sequence[str], labels: Sequence[str], *, fold: bool) -> dict[str, int]:
    """Rows of each label, the most frequent first."""
    spelling = fold_label if fold else compose
    usual: dict[object, str] = {spelling(label): label for label in labels}
    counts = Counter(usual.get(spelling(text), text) for text in texts)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
