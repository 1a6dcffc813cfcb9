"""Inputs: what stands before a prompt and what behind it, as text and as token ids. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from softprompt.errors import ContextError
from softprompt.rows.openai_files import MESSAGES
from softprompt.rows.places import Name, Place
from softprompt.rows.sources import Row
from softprompt.tasks.wording.chat import text_place, with_text
from softprompt.tasks.wording.conversation import forget, said_last, say_last, word_conversation
from softprompt.tasks.wording.template import PASSAGES, Template, field_text
from softprompt.text import Parts, plural

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase


@dataclass(frozen=True)
class Inputs:
    """Token ids of inputs."""

    ids: list[list[int]]
    cut: list[int]
    """The places of those that had to be cut to fit the context."""
    fronts: list[list[int]]
    """Of each, what stands before the prompt."""

    @property
    def truncated(self) -> int:
        """How many were cut."""
        return len(self.cut)


Word = Callable[[Row, object], Parts]
"""A row as text; its second argument is what messages call the row."""


@dataclass(frozen=True)
class Wording:
    """How a row becomes text around a prompt."""

    columns: Sequence[str]
    """What is read of a row."""
    front: Word | None
    """What stands before the vectors, where something does."""
    behind: Word
    converses: bool = False
    """Whether its messages are worded by the base's chat template."""

    @classmethod
    def of_conversation(cls, template: Template, base: FrozenBase, prepend: str = "") -> Wording:
        """With messages in the base's chat template, and a text prompt, if there is one, in front of the user's first."""
        return cls(
            template.fields, None, lambda row, where: word_conversation(base, template, row, where, prepend), converses=True
        )

    @classmethod
    def as_one(cls, template: Template, base: FrozenBase, prepend: str) -> Wording:
        """As one text, with a text prompt in its place, if there is one."""
        whole = template.without_prompt
        if not prepend:
            return cls(whole.fields, None, whole.fill_parts)
        at = text_place(whole, base)
        return cls(whole.fields, None, lambda row, where: with_text(whole.fill_parts(row, where), prepend, at))

    @classmethod
    def around_prompt(cls, template: Template) -> Wording:
        """As what stands before the vectors and what behind them."""
        if template.around_prompt is None:
            return cls(template.fields, None, template.fill_parts)
        before, behind = template.around_prompt
        return cls(template.fields, before.fill_parts, behind.fill_parts)

    def encode(self, base: FrozenBase, rows: Sequence[Row], name: Name) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of what stands before the vectors of each row, and of what behind them."""
        fronts, behind = [
            base.encode([word(row, Place(name, index)) for index, row in enumerate(rows)], name=name) if word else []
            for word in (self.front, self.behind)
        ]
        return fronts or [[]] * len(rows), behind

    def shorten(self, base: FrozenBase, row: Row, limit: int, task: str) -> tuple[list[int], list[int]]:
        """The same of one row, within so many tokens: passages lose their end, the least of them, else the longest column; a
        conversation its oldest exchanges, and then the end of what is said last.

        Raises:
            ContextError: the template of the task alone takes more.
        """
        row = {name: field_text(row, name, "the row") for name in self.columns}
        while True:
            front, behind = [base.encode([word(row, "the row")])[0] if word else [] for word in (self.front, self.behind)]
            ids = [*front, *behind]
            if len(ids) <= limit and behind:
                return front, behind
            if self.converses and (shorter := forget(row[MESSAGES])) is not None:
                row[MESSAGES] = shorter
                continue
            longest = PASSAGES if row.get(PASSAGES) else max(row, key=lambda name: len(row[name]))
            if self.converses:
                longest, whole = MESSAGES, row[MESSAGES]
                row[MESSAGES] = said_last(whole)
            if not row[longest]:
                raise ContextError(
                    f"the template of task {task!r} alone takes {plural(len(ids), 'token')}, and {limit} are left "
                    "beside prompt and output; use a shorter template or prompt"
                )
            # Of a character that takes several tokens all or nothing goes, so a character goes at least.
            cut = base.spelling.shorten(row[longest], len(ids) - limit)
            row[longest] = cut if len(cut) < len(row[longest]) else row[longest][:-1]
            if self.converses:
                row[MESSAGES] = say_last(whole, row[MESSAGES])
