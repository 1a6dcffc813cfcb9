"""What texts lie near in the frozen base's own space, without any prompt.

Shapes: N inputs, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase

if TYPE_CHECKING:
    from softprompt.model.architecture import Architecture

LONGEST = 256
"""Tokens of an input that are looked at; what a text is about shows in its beginning."""
_SINGLES = 256


def shorten(base: FrozenBase, ids: Sequence[int]) -> list[int]:
    """The beginning of an input, which is looked at, and which fits the context with a token to spare."""
    return list(ids[: min(LONGEST, (base.context or LONGEST + 1) - 1)])


def single_tokens(base: FrozenBase) -> list[list[int]]:
    """Inputs of one token each, spread over the vocabulary: what the base makes of nothing in particular."""
    size = int(base.embedding.weight.shape[0])
    return [[token] for token in range(0, size, -(-size // _SINGLES))]


def centroid_of(architecture: Architecture, texts: Sequence[str]) -> Tensor | None:
    """Where texts lie: the mean of their directions from the base's origin, D float32. None where no text has tokens.

    Without the origin all directions are much alike. Each text counts as a unit vector, so the length of the mean tells how
    alike the texts are.
    """
    base = architecture.base
    inputs = [shorten(base, ids) for ids in base.encode(texts) if ids]
    if not inputs:
        return None
    offsets_ND = architecture.embed(inputs) - architecture.origin_D
    return torch.nn.functional.normalize(offsets_ND, dim=1).mean(0)


def raw_text(fields: Sequence[str], row: Mapping[str, Any]) -> str:
    """A row as a request without a template would say it: its columns, joined by newlines."""
    return "\n".join(str(row[field]) for field in fields)
