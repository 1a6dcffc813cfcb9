"""Attention for the training step on a CPU, in the place of the models' own.

What Llama's own attention (and a hundred architectures', word for word) does in steps that autograd records one by one, with
keys and values copied for each head of queries, is one operation here: the heads that share keys are laid end to end, so
that nothing is copied for them, and only the probabilities are kept for the way back. The fused kernels of torch are slower
than either on a CPU when there is a way back.

Shapes: B rows, H heads of queries, J heads of keys, G = H / J, T tokens, S columns, d width of a head, e width of a value.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.llama import modeling_llama

from softprompt.bases.base import FrozenBase

NAME = "softprompt_packed"
"""As transformers knows it."""


class _Attention(torch.autograd.Function):
    """Scaled dot-product attention with a mask that is added; gives B x T x H x e."""

    @staticmethod
    def forward(
        ctx: Any, query_BHTd: Tensor, key_BJSd: Tensor, value_BJSe: Tensor, mask_B1TS: Tensor | None, scale: float
    ) -> Tensor:
        rows, heads, tokens, width = query_BHTd.shape
        shared, columns = key_BJSd.shape[1:3]
        query = query_BHTd.reshape(rows * shared, -1, width)
        key = key_BJSd.reshape(rows * shared, columns, width)
        value = value_BJSe.reshape(rows * shared, columns, -1)
        shares = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
        if mask_B1TS is not None:
            shares.view(rows, heads, tokens, columns).add_(mask_B1TS)
        shares = shares.softmax(-1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.scale, ctx.like = scale, (query_BHTd.shape, key_BJSd.shape, value_BJSe.shape)
        return torch.bmm(shares, value).view(rows, heads, tokens, -1).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTHe: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, shares = ctx.saved_tensors
        gradient = gradient_BTHe.transpose(1, 2).reshape(*query.shape[:2], -1)
        of_value = torch.bmm(shares.transpose(1, 2), gradient)
        of_shares = torch.bmm(gradient, value.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(ctx.scale)
        of_query, of_key = torch.bmm(of_scores, key), torch.bmm(of_scores.transpose(1, 2), query)
        query_shape, key_shape, value_shape = ctx.like
        return of_query.view(query_shape), of_key.view(key_shape), of_value.view(value_shape), None, None


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """As transformers asks for attention; what this does not do, the model's own does."""
    if softcap is not None or dropout or (attention_mask is not None and attention_mask.shape[1] != 1):
        more: dict[str, Any] = {"softcap": softcap} if softcap is not None else {}
        more |= {"scaling": scaling, "dropout": dropout, **others}
        found: tuple[Tensor, Tensor | None] = _own(module)(module, query, key, value, attention_mask, **more)
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    given: Tensor = _Attention.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
    return given, None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)

_KNOWN = {inspect.getsource(module.eager_attention_forward) for module in (modeling_llama, modeling_gemma2)}
"""Own attentions that this one equals, by their texts."""


def _own(module: Any) -> Any:
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


@functools.cache
def _equals(own: Any) -> bool:
    try:
        return inspect.getsource(own) in _KNOWN
    except (OSError, TypeError):  # none, or one without a text
        return False


def _packs(model: Any) -> bool:
    """Whether every attention of a model is one that this one equals."""
    owns = [_own(part) for part in model.modules() if type(part).__name__.endswith("Attention")]
    return bool(owns) and all(map(_equals, owns))


@contextmanager
def packed_attention(base: FrozenBase) -> Iterator[None]:
    """Within, a base on a CPU has this attention in the place of its own eager one, where they are equal but for rounding;
    one that is batch invariant keeps its own, since others may be running it."""
    before = base.model.config._attn_implementation
    if base.device.type != "cpu" or before != "eager" or base.batch_invariant or not _packs(base.model):
        yield
        return
    base.model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        base.model.set_attn_implementation(before)
