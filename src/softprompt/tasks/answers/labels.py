"""Labels: which answers are a choice among few, and which are one label in several spellings. No torch."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from softprompt.rows.values import text_of

MOST_LABELS = 200
LONGEST_LABEL = 80
ROWS_PER_LABEL = 2
"""With more distinct answers, with longer ones, or with fewer rows for each in the mean, a task generates its answers; so it
does where most of them come once."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,9})?")


def infer_labels(answers: Sequence[str], *, fold: bool = False) -> tuple[tuple[str, ...] | None, str]:
    """The labels that answers are chosen from, sorted, or None for free text; and why, in words that go on from "the answers
    are". One rule for `softprompt init` and for jobs.

    Args:
        fold: take each label in its most frequent spelling alone, without space around it.
    """
    if fold:
        usual = {label: next(iter(group)).strip() for group in alike(Counter(answers)) for label in group}
        answers = [usual.get(answer, answer.strip()) for answer in answers]
    answers = list(map(compose, answers))
    counts = Counter(answers)
    count, once = len(counts), sum(number == 1 for number in counts.values())
    few = f"{count} different ones in {len(answers)} rows"
    if count < 2:
        return None, f"generated: {few}, and a choice needs two"
    if count > MOST_LABELS:
        return None, f"generated: {few}, and at most {MOST_LABELS} are taken for labels"
    if count * ROWS_PER_LABEL > len(answers):
        return None, f"generated: {few}, and labels have at least {ROWS_PER_LABEL} rows each in the mean"
    if once * 2 > count:
        return None, f"generated: {few}, of which {once} come once, as most labels do not"
    if any(len(answer) > LONGEST_LABEL or "\n" in answer or not answer.strip() for answer in counts):
        return None, f"generated: some are empty, of several lines or of over {LONGEST_LABEL} characters, as labels are not"
    return tuple(sorted(counts)), f"labels: {few}"


def compose(text: str) -> str:
    """A text in Unicode's composed form (NFC): what looks the same is the same."""
    return unicodedata.normalize("NFC", text)


def fold_label(label: str) -> str | Decimal:
    """What labels have in common that differ by case, by spaces or as numbers are written (1, 1.0, 01) alone."""
    text = compose(" ".join(label.split()).casefold())
    if _NUMBER.fullmatch(text):
        try:
            return Decimal(text)  # exact, and equal to all that is the same number
        except InvalidOperation:
            return text
    return text


@dataclass(frozen=True)
class Spellings:
    """Which label an answer is, as rows spell it."""

    labels: Sequence[str]
    words: Sequence[tuple[str, str]]
    """Labels for answers that are none themselves."""
    fold: bool
    """Whether labels that :func:`fold_label` makes one are one."""

    @cached_property
    def _labels(self) -> dict[str | Decimal, str]:
        return {self._key(label): label for label in self.labels}

    @cached_property
    def _words(self) -> dict[str | Decimal, str]:
        return {self._key(text): label for text, label in self.words}

    def _key(self, text: str) -> str | Decimal:
        return fold_label(text) if self.fold else compose(text)

    def label_of(self, text: str) -> str | None:
        """The label as it is listed; None for what is no label."""
        return self._labels.get(self._key(self._words.get(self._key(text), text)))

    def like(self, text: str) -> str | None:
        """The label that a text would be if spellings were folded."""
        return next((label for label in self.labels if fold_label(label) == fold_label(text)), None)

    def is_folded(self, text: str) -> bool:
        """Whether a text is a label only because spellings are folded."""
        return self.fold and compose(text) not in map(compose, (*self.labels, *(given for given, _ in self.words)))


def alike(counts: Mapping[str, int]) -> list[dict[str, int]]:
    """The groups of labels that :func:`fold_label` makes one, the most frequent of each first, with their counts."""
    groups: dict[str | Decimal, dict[str, int]] = defaultdict(dict)
    for label, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        groups[fold_label(label)][label] = count
    return [group for group in groups.values() if len(group) > 1]


def counted(counts: Mapping[str, int], most: int = 8) -> str:
    """Labels and their numbers of rows, for messages: `'yes' (12), 'Yes' (3)`."""
    shown = [f"{excerpt_of(label)} ({count})" for label, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def named(labels: Sequence[str], most: int = 8) -> str:
    """Labels for messages."""
    return ", ".join(map(excerpt_of, labels[:most])) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def excerpt_of(text: str, most: int = 40) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")


def with_label_texts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a task file in which labels, and what stands for them, are texts, as values of rows become texts too. Where
    `id2label` alone says what the labels are, they are in `labels` too.
    """
    labels, words, weights = raw.get("labels"), raw.get("id2label"), raw.get("class_weights")
    changed: dict[str, Any] = {}
    if isinstance(labels, list | tuple):
        changed["labels"] = [_plain(label) for label in labels]
    if isinstance(weights, dict):
        changed["class_weights"] = {_plain(label): weight for label, weight in weights.items()}
    if isinstance(words, dict):
        changed["id2label"] = {_plain(given): _plain(label) for given, label in words.items()}
        if labels is None:
            changed["labels"] = list(dict.fromkeys(changed["id2label"].values()))
    return {**raw, **changed}


def _plain(label: Any) -> Any:
    return text_of(label) if isinstance(label, bool | int | float) else label


def check_labels(labels: Sequence[str], *, fold: bool, words: Mapping[str, str]) -> None:
    """Refuse labels that are none, or are one, and words that are none of them.

    Raises:
        ValueError: fewer than two, one is empty, or two are equal, in Unicode's composed form or folded.
    """
    if len(labels) < 2:
        raise ValueError(
            f"labels: a choice needs at least two labels, and there {'is one' if labels else 'are none'}; list more"
        )
    twice = sorted(label for label, count in Counter(map(compose, labels)).items() if count > 1)
    if twice:
        raise ValueError(f"labels: {twice[0]!r} is listed more than once; list it once")
    if any(not label.strip() for label in labels):
        raise ValueError("labels: one of them is empty; give it a text")
    for given in [labels, list(words)] if fold else []:
        if groups := alike(dict.fromkeys(map(compose, given), 0)):
            raise ValueError(f"labels: {named(list(groups[0]))} are one by fold_labels; keep one of them")
    for text, label in words.items():
        if compose(label) not in map(compose, labels):
            raise ValueError(f"id2label: {text!r} stands for {label!r}, which is not among `labels`; list it")
