"""What the frozen base makes of an input without any prompt: the mean of its last hidden states.

Shapes: N inputs, B rows of a chunk, T tokens, D width.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.model.splice import chunk_by_length, pad_rows

LONGEST = 256
"""Tokens of an input that are looked at; what a text is about shows in its beginning."""
_TOKEN_BUDGET = 4096
_SINGLES = 256

_origins: weakref.WeakKeyDictionary[FrozenBase, Tensor] = weakref.WeakKeyDictionary()


@torch.no_grad()
def embed_inputs(base: FrozenBase, inputs: Sequence[Sequence[int]]) -> Tensor:
    """Mean over tokens of the base's last hidden states, N x D float32 on the CPU, a row for each input on its own.

    Args:
        inputs: token ids, at least one each, within the context.
    """
    embeddings_ND = torch.zeros(len(inputs), base.width)
    for group in chunk_by_length([len(ids) for ids in inputs], _TOKEN_BUDGET):
        tokens = pad_rows([inputs[i] for i in group], base.device)
        positions_BT = torch.arange(tokens.mask_BT.shape[1], device=base.device).expand(tokens.mask_BT.shape)
        output = base.model.base_model(
            inputs_embeds=base.embed(tokens.ids_BT),
            attention_mask=tokens.mask_BT,
            position_ids=positions_BT,
            use_cache=False,
        )
        states_BTD = output.last_hidden_state.float().masked_fill(~tokens.mask_BT[..., None], 0)
        embeddings_ND[group] = (states_BTD.sum(1) / tokens.mask_BT.sum(1, keepdim=True)).cpu()
    return embeddings_ND


def shorten(base: FrozenBase, ids: Sequence[int]) -> list[int]:
    """The beginning of an input, which is looked at, and which fits the context with a token to spare."""
    return list(ids[: min(LONGEST, (base.context or LONGEST + 1) - 1)])


def single_tokens(base: FrozenBase) -> list[list[int]]:
    """Inputs of one token each, spread over the vocabulary: what the base makes of nothing in particular."""
    size = int(base.embedding.weight.shape[0])
    return [[token] for token in range(0, size, -(-size // _SINGLES))]


def centroid_of(base: FrozenBase, texts: Sequence[str]) -> Tensor | None:
    """Where texts lie: the mean of their directions from the base's origin, D float32. None where no text has tokens.

    The origin is the mean embedding of :func:`single_tokens`, a property of the base alone; without it all directions are
    much alike. Each text counts as a unit vector, so the length of the mean tells how alike the texts are.
    """
    inputs = [shorten(base, ids) for ids in base.encode(texts) if ids]
    if not inputs:
        return None
    if base not in _origins:
        _origins[base] = embed_inputs(base, single_tokens(base)).mean(0)
    return torch.nn.functional.normalize(embed_inputs(base, inputs) - _origins[base], dim=1).mean(0)


def raw_text(fields: Sequence[str], row: Mapping[str, Any]) -> str:
    """A row as a request without a template would say it: its columns, joined by newlines."""
    return "\n".join(str(row[field]) for field in fields)
