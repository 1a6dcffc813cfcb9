"""A library that something is put in, which may not be there before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softprompt.library.library import Library


@dataclass
class ToFill:
    """A library that something is put in: the one that is there, or one that is made for the first of it. What is refused
    leaves no empty library behind."""

    there: Library | None
    make: Callable[[], Library]

    @classmethod
    def of(cls, library: Library | ToFill) -> ToFill:
        """A library that is there, as one to fill."""
        return library if isinstance(library, ToFill) else cls(library, lambda: library)

    def made(self) -> Library:
        """The library, which is there from now on. Raises as `Library.open` does."""
        if self.there is None:
            self.there = self.make()
        return self.there
