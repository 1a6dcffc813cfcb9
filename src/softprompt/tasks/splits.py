"""Splits: rows to training, validation and test, by what the form reads of each and nothing else. No torch.

A row's place is a function of its own input and answer, so rows that come or go move no others, and columns that no template
names count for nothing. Rows of one input go together. Only a label or a part that would go without takes some from another,
and rows that were cut so before, of which a part would get too many or few, are cut by other places.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from softprompt.rows.places import Place, PlacedRows
from softprompt.rows.sources import Row, canonical
from softprompt.tasks.wording.template import field_text
from softprompt.text import plural

if TYPE_CHECKING:
    from softprompt.tasks.form import Form

T = TypeVar("T")

FEW, FOLDS = 64, 4
"""With so many different inputs or fewer a tenth of them could choose no prompt; it is chosen by folds, this many."""


_CHANCE = 4.0
"""A part with as many standard deviations more or fewer inputs than are to be expected has them by no chance (1 in 15,000):
the rows are what an earlier cut left."""


@dataclass(frozen=True)
class Source:
    """The rows of a file as a form reads them; a list's places are those of `rows`."""

    name: str
    """What messages call it."""
    rows: PlacedRows
    """Those with an input."""
    inputs: list[str]
    answers: list[str]
    written: list[str]
    """The answers as the file has them."""
    positions: list[float]
    groups: list[str]
    """What rows have in common that go together: by default their inputs."""
    blank: int = 0
    """How many had an input of nothing but white space, and were left out."""
    gaps: int = 0
    """How many have nothing in some columns of their input, and something in others."""
    first_gap: str = ""
    """Which column that is in the first of them, and where it stands."""

    @classmethod
    def read(cls, form: Form, rows: PlacedRows, name: str, owner: str = "", group: str | None = None) -> Source:
        """Read rows; `owner` is what messages on one begin with, and `group` the column of what goes together.

        Raises:
            DataError: a row lacks a column or has a value that is no text, or its answer is no label.
        """
        kept: list[int] = []
        there = {column for row in rows for column in row}
        rows = rows if form.retriever is None else form.retriever.fill_all(rows)
        source = cls(name, rows, [], [], [], [], [])

        def called(place: int) -> str:
            return f"{owner}{rows.where(place)}"

        gaps, first_gap = 0, ""
        for place, row in enumerate(rows):
            if form.is_blank(row) and there.issuperset(form.asked_columns):
                continue
            at = Place(called, place)
            columns = form.columns(row, at)
            kept.append(place)
            source.inputs.append(form.input.fill(row, at))
            source.answers.append(form.answer(row, at))
            source.written.append(columns[form.target_field])
            shared = None if group is None else field_text(row, group, at)
            source.groups.append(source.inputs[-1] if shared is None else shared)
            source.positions.append(position(columns if shared is None else {group or "": shared}))
            if (gap := form.gap(row)) is not None:
                gaps, first_gap = gaps + 1, first_gap or f"{gap!r} in {rows.where(place)}"
        return replace(source, rows=rows.part(kept), blank=len(rows) - len(kept), gaps=gaps, first_gap=first_gap)

    def part(self, places: Iterable[int]) -> Source:
        """Some of its rows."""
        chosen = list(places)

        def pick(values: list[T]) -> list[T]:
            return [values[place] for place in chosen]

        inputs, answers, written, groups = map(pick, (self.inputs, self.answers, self.written, self.groups))
        return Source(self.name, self.rows.part(chosen), inputs, answers, written, pick(self.positions), groups, self.blank)

    def remarks_on_inputs(self, form: Form) -> Iterator[str]:
        """That rows were left out, or have gaps in their inputs, where some were or have."""
        if self.blank:
            columns = " and ".join(map(repr, form.input.fields))
            yield f"{self.name}: {plural(self.blank, 'row')} of {self.blank + len(self.rows)} left out: nothing in {columns}"
        if self.gaps:
            yield f"{self.name}: {told_gaps(self.gaps, len(self.rows), self.first_gap)}"

    @property
    def different(self) -> int:
        """How many inputs it has, or groups of them."""
        return len(set(self.groups))

    @property
    def repeated(self) -> int:
        """Rows whose input and answer are those of a row before."""
        return len(self.rows) - len(set(zip(self.inputs, self.answers, strict=True)))

    def contradictions(self) -> dict[str, dict[str, int]]:
        """Inputs that have several answers, with the number of rows of each."""
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for text, answer in zip(self.inputs, self.answers, strict=True):
            if answer:
                answers[text][answer] += 1
        return {text: dict(counts.most_common()) for text, counts in answers.items() if len(counts) > 1}

    def faults(self) -> dict[str, int]:
        """How many rows were blank, repeated or contradictory, where any were."""
        contradictory = sum(sum(counts.values()) for counts in self.contradictions().values())
        counts = {"blank": self.blank, "repeated": self.repeated, "contradictory": contradictory}
        return {name: count for name, count in counts.items() if count}


def position(columns: Mapping[str, Any]) -> float:
    """Where a row falls in [0, 1) by its columns; for a split those are the texts that a form reads of it, of its input and
    of its answer."""
    return int.from_bytes(hashlib.blake2b(canonical(dict(columns)), digest_size=8).digest(), "big") / 2**64


def cut(source: Source, spans: Sequence[tuple[float, float]], *, by_label: bool) -> list[Source]:
    """Cut rows into the rest and a part for each span [start, end) of positions.

    Args:
        by_label: whether answers are labels, of which each part has some where there are enough inputs of it: the rest
            first, and then the parts in order.
    """
    inputs = _Inputs(source, spans)
    if inputs.cut_before(spans):
        again = [position({"": place}) for place in source.positions]
        inputs = _Inputs(replace(source, positions=again), spans)
    for label in inputs.labels if by_label else ():
        for part in range(len(spans) + 1):
            inputs.provide(part, label)
    for part in range(len(spans) + 1):
        inputs.provide(part)
    return [source.part(inputs.rows_in(part)) for part in range(len(spans) + 1)]


def deal(source: Source, folds: int, *, by_label: bool) -> list[list[int]]:
    """Deal rows into folds of equal size but for one, as far as the rows of one group, which go together, allow.

    Args:
        by_label: whether answers are labels, of which each fold gets its share.

    Returns:
        The places of each fold's rows, in their order; no fold is empty while there are inputs enough.
    """
    first: dict[str, int] = {}
    for place, text in enumerate(source.groups):
        first.setdefault(text, place)

    def key(text: str) -> tuple[str, float, str]:
        place = first[text]
        return (source.answers[place] if by_label else "", source.positions[place], text)

    fold_of = {text: number % folds for number, text in enumerate(sorted(first, key=key))}
    dealt: list[list[int]] = [[] for _ in range(folds)]
    for place, text in enumerate(source.groups):
        dealt[fold_of[text]].append(place)
    return [places for places in dealt if places]


def draw(rows: Sequence[Row], labels: Sequence[str] | None, count: int) -> list[int]:
    """Draw so many rows, or all where they are no more: a function of what the rows hold, of no seed and not of their order;
    and those of a smaller number are among those of a larger one.

    Args:
        labels: of the rows, where they have any: each has its share of the drawn rows, and one at least where there is room.

    Returns:
        The places of the rows, in their order.
    """
    named = labels or [""] * len(rows)
    sizes, met, turns = Counter(named), Counter[str](), list[tuple[bool, float, int]]()
    for place in sorted(range(len(rows)), key=lambda place: position(rows[place])):
        label = named[place]
        turns.append((met[label] > 0, (met[label] + 0.5) / sizes[label], place))
        met[label] += 1
    turns.sort(key=lambda turn: turn[:2])  # of equal turns the one of the lower position stays first
    return sorted(place for _, _, place in turns[:count])


class _Inputs:
    """Inputs, or groups of them, each in the part that all of its rows go to."""

    def __init__(self, source: Source, spans: Sequence[tuple[float, float]]) -> None:
        self._source, self._parts = source, range(len(spans) + 1)
        places: dict[str, set[float]] = defaultdict(set)
        answers: dict[str, set[str]] = defaultdict(set)
        for text, answer, place in zip(source.groups, source.answers, source.positions, strict=True):
            answers[text].add(answer)
            places[text].add(place)
        # The largest of n places in [0, 1) lies high; its n-th power lies anywhere, as one place does.
        self._positions = {text: max(own) ** len(own) for text, own in places.items()}
        self._part = {text: _part_of(place, spans) for text, place in self._positions.items()}
        self._of: dict[str | None, list[str]] = defaultdict(list)
        """The inputs of a label, and of none for all."""
        for text, own in answers.items():
            for label in own:
                self._of[label].append(text)
        self.labels = sorted(label for label in self._of if label is not None)
        self._of[None] = list(self._part)
        self._movable = {text for text, own in answers.items() if len(own) == 1}
        """Others would take a second label along."""

    def cut_before(self, spans: Sequence[tuple[float, float]]) -> bool:
        """Whether a part has so many or few that what there is was cut by its places before."""
        shares = [end - start for start, end in spans]
        count, found = len(self._part), Counter(self._part.values())
        return any(
            abs(found[part] - share * count) > _CHANCE * math.sqrt(count * share * max(0.0, 1 - share))
            for part, share in enumerate((max(0.0, 1 - sum(shares)), *shares))
        )

    def provide(self, part: int, label: str | None = None) -> None:
        """Give a part an input of a label, or any, where it has none and another part has one to spare; what is to be
        trained on takes the only one too."""
        held: list[list[str]] = [[] for _ in self._parts]
        for text in self._of[label]:
            held[self._part[text]].append(text)
        if held[part]:
            return
        spare = [[text for text in texts if label is None or text in self._movable] for texts in held]
        giver = max(self._parts, key=lambda other: (len(spare[other]), -other))
        if spare[giver] and (len(held[giver]) > 1 or (part == 0 and label is not None)):
            self._part[min(spare[giver], key=lambda text: (self._positions[text], text))] = part

    def rows_in(self, part: int) -> list[int]:
        """Places of a part's rows, in their order."""
        return [place for place, text in enumerate(self._source.groups) if self._part[text] == part]


def _part_of(place: float, spans: Sequence[tuple[float, float]]) -> int:
    return next((part for part, (start, end) in enumerate(spans, 1) if start <= place < end), 0)


def told_gaps(count: int, total: int, first: str) -> str:
    """That inputs have nothing in some of their columns; `first` says which and where in the first of them."""
    rows = f"1 row of {total} has" if count == 1 else f"{count} rows of {total} have"
    return f"{rows} nothing in a column of the input ({first}), read as empty text"


def spans(shares: Iterable[float]) -> list[tuple[float, float]]:
    """The shares' parts of [0, 1), one behind the other."""
    ends = list(itertools.accumulate(shares))
    return list(zip([0.0, *ends], ends, strict=False))


def why_none(split: str, source: Source) -> str:
    """That a split has no rows, and why: what there is of them repeats, or is blank."""
    count = len(source.rows) + source.blank
    why = [f"{source.blank} of them blank"] if source.blank else []
    if source.different < len(source.rows):
        why.append(f"{source.different} of them different: equal inputs stay in one split")
    told = plural(count, "row") + (f" ({', '.join(why)})" if why else "")
    return f"no rows are left for the {split} split of {told}; give more rows, or a file for it"
