"""Requests' texts to token ids, without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from softprompt.errors import DataError
from softprompt.serving.inputs import check_text, raw_input
from softprompt.text import Parts, plain

if TYPE_CHECKING:
    from softprompt.bases.base import FrozenBase

INLINE = 2000
"""Characters that are tokenised on the event loop, in well under a millisecond; more go to a thread."""

T = TypeVar("T")


class Reader:
    """Reads texts for one base. For use on one event loop."""

    def __init__(self, base: FrozenBase) -> None:
        self._base = base

    async def off_loop(self, texts: Sequence[str], extra: int, work: Callable[[], T]) -> T:
        """What tokenises texts, in a thread where it is more than a little: `extra` counts as so many characters."""
        if sum(map(len, texts)) + extra > INLINE or any(map(self._base.spelling.takes_long, texts)):
            return await asyncio.to_thread(work)
        return work()

    async def raw_ids(self, given: str | Sequence[int]) -> tuple[int, ...]:
        """Token ids of raw text, or those given, checked."""
        if isinstance(given, str):
            if not given:
                raise DataError("the input is empty; give some text")
            check_text(given, "the input", blank=True)
            return await self.ids_of(plain(given))
        size = int(self._base.embedding.weight.shape[0])
        wrong = next((token for token in given if not 0 <= token < size), None)
        if wrong is not None:
            raise DataError(
                f"token id {wrong} is not in the vocabulary of {self._base.name}: 0 to {size - 1}; send ids of its tokenizer"
            )
        if not given:
            raise DataError("the input has no tokens; give some text")
        if self._base.spelling.unusable:
            self._base.spelling.check_ids(given, "the input")
        return tuple(given)

    async def ids_of(self, text: Parts) -> tuple[int, ...]:
        """Token ids of a text in parts."""
        texts = ["".join(pair) for pair in text]
        (ids,) = await self.off_loop(texts, 0, lambda: self._base.encode([text], name=lambda _: "the input"))
        if not ids:
            raise DataError("the input has no tokens; give some text")
        return tuple(ids)

    async def raw_inputs(self, inputs: Sequence[str]) -> list[tuple[int, ...]]:
        """Inputs of a classification as they are without a template."""
        return [await self.raw_ids(raw_input(text)) for text in inputs]
