"""Which tokens are embedded to see what a text lies near in the frozen base's own space, without any prompt."""

from __future__ import annotations

from collections.abc import Sequence

from softprompt.bases.base import FrozenBase

LONGEST = 256
"""Tokens of an input that are looked at; what a text is about shows in its beginning."""
_SINGLES = 256


def shorten(base: FrozenBase, ids: Sequence[int]) -> list[int]:
    """The beginning of an input, which is looked at, and which fits the context with a token to spare."""
    framed = sum(map(len, base.frame))
    return list(ids[: min(LONGEST, (base.context or LONGEST + 1 + framed) - framed - 1)])


def single_tokens(base: FrozenBase) -> list[list[int]]:
    """Inputs of one token each, spread over the vocabulary: what the base makes of nothing in particular."""
    size = int(base.embedding.weight.shape[0])
    return [[token] for token in range(0, size, -(-size // _SINGLES)) if token not in base.spelling.unusable]
