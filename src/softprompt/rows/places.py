"""Rows that know their places: what a message calls a row, in the words of what holds it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from softprompt.rows.values import Row

Name = Callable[[int], str]
"""What messages call a row, by its place."""


class Place:
    """The name of a row, made where it is told and not before: rows are many, and few are wrong."""

    __slots__ = ("_index", "_name")

    def __init__(self, name: Name, index: int) -> None:
        self._name, self._index = name, index

    def __str__(self) -> str:
        return self._name(self._index)


class PlacedRows(list[Row]):
    """Rows of a file, a split of the hub or a program, each of which is called by its place there."""

    def __init__(self, rows: Iterable[Row], name: Name, places: Sequence[int] | None = None) -> None:
        """`places` are those of the rows, where they are not all that there are."""
        super().__init__(rows)
        self._name, self._places = name, places

    def where(self, index: int) -> str:
        """Where a row stands, for a message."""
        return self._name(index if self._places is None else self._places[index])

    def part(self, indices: Sequence[int]) -> PlacedRows:
        """Some of the rows, which keep their places."""
        places = indices if self._places is None else [self._places[index] for index in indices]
        return PlacedRows([self[index] for index in indices], self._name, places)


def numbered(rows: Iterable[Row], of: str) -> PlacedRows:
    """Rows that are called by their number, from 1."""
    return PlacedRows(rows, partial(_number, of))  # no closure: rows go to other processes


def _number(of: str, place: int) -> str:
    return f"row {place + 1} of {of}"
