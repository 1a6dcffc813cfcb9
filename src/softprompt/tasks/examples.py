"""Rows of a split as token ids. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Examples:
    """Rows of a split as token ids."""

    inputs: list[list[int]]
    targets: list[list[int]]
    """The answer's tokens; for a generated answer the end token is among them."""
    choices: list[int]
    """Index of the right label; empty for a task that generates, and for sets of labels."""
    answers: list[str]
    """The answers as text."""
    truncated: int
    """Inputs that were cut to fit the context."""
    longest_answer: int = 0
    """Tokens of the longest answer before it was cut to `max_new_tokens`, its end among them; 0 where none was cut."""
    answers_cut: int = 0
    """Answers that were cut to `max_new_tokens`."""
    first_cut: str = ""
    """Where the first row stands whose input was cut."""
    first_answer_cut: str = ""
    """Where the first row stands whose answer was cut."""
    fronts: list[list[int]] = field(default_factory=list)
    """Of each row the tokens before the prompt; empty where it stands before everything."""
    sets: list[tuple[int, ...]] = field(default_factory=list)
    """Indices of the labels that hold, of sets of labels; else empty."""
    passages: list[str] = field(default_factory=list)
    """Those of each row, where an answer is written from some; else empty."""
    beside: list[Any] = field(default_factory=list)
    """What an objective needs of each row beside its answer; none where it needs nothing."""

    def __len__(self) -> int:
        return len(self.inputs)

    def remarks(self, whose: str) -> Iterator[str]:
        """That inputs were cut, where some were; `whose` is what it begins with."""
        if self.truncated:
            yield remark_on_cut(whose, self.truncated, len(self), self.first_cut)

    def front(self, row: int) -> list[int]:
        """The tokens before the prompt of a row."""
        return self.fronts[row] if self.fronts else []

    def right(self, row: int) -> tuple[int, ...]:
        """Indices of the labels that hold of a row, or of the one that does."""
        return self.sets[row] if self.sets else (self.choices[row],)

    def part(self, start: int, end: int) -> Examples:
        """The rows from `start` to `end`, in lists of their own."""
        return self.pick(range(len(self))[start:end])

    def pick(self, places: Sequence[int]) -> Examples:
        """The rows at these places, in lists of their own."""
        return replace(
            self,
            inputs=[self.inputs[place] for place in places],
            targets=[self.targets[place] for place in places],
            choices=[self.choices[place] for place in places if self.choices],
            answers=[self.answers[place] for place in places],
            fronts=[self.fronts[place] for place in places if self.fronts],
            sets=[self.sets[place] for place in places if self.sets],
            passages=[self.passages[place] for place in places if self.passages],
            beside=[self.beside[place] for place in places if self.beside],
        )


def remark_on_cut(whose: str, cut: int, rows: int, first: str) -> str:
    """That inputs were cut, the first of them where `first` says."""
    return f"{whose}: {cut} of {rows} inputs were cut to fit the context, the first of them {first}"
