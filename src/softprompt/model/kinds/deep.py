"""Prefixes on encoders, which the literature knows as deep prompts (P-tuning v2, Liu et al. 2021, arXiv:2110.07602): at
every layer the tokens of a row attend to trained keys and values too. Tokens count their positions from behind the prefix,
as PEFT's do.

Shapes: K prompts, P virtual tokens, B rows, T tokens, S = P + T columns, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from softprompt.bases.base import FrozenBase
from softprompt.bases.behaviour import first_position
from softprompt.model.embedding import single_tokens
from softprompt.model.kinds.unshared import Laid, Unshared
from softprompt.model.lines import Ids
from softprompt.model.prefix import Layout, Prefix, cache_argument, fixed_cache, layout_for
from softprompt.model.splice import Stack, pad_rows, splice_prompts, splice_tokens, stack_padded, stack_prompts


class DeepEncoder(Unshared):
    """Encoders alone, behind prompts of either kind."""

    def run_encoder(self, laid: Laid) -> Tensor:
        """See :class:`Unshared`."""
        states_BSD: Tensor = self.base.model.base_model(**laid.given).last_hidden_state
        return states_BSD

    @property
    def layout(self) -> Layout | None:
        """See :class:`~softprompt.model.architecture.Architecture`."""
        return None if self._deep is None else self._deep.layout

    def compute_prefix(self, stack: Stack) -> Prefix:
        """The keys and values that the encoder makes of soft prompts alone, from which prefixes can start; rows behind the
        soft prompts themselves never see them."""
        layout_for(self.base, self.layout)
        assert self._deep is not None
        return self._deep.keys_and_values(stack)

    def lay(self, stack: Stack, which: Sequence[int], rows: Sequence[Ids]) -> Laid:
        """See :class:`Unshared`; behind prefixes there are tokens alone."""
        if (width := stack.vectors_KPD.shape[2]) == self.base.width:
            return super().lay(stack, which, rows)
        layout_for(self.base, self.layout, width)
        assert self._deep is not None
        tokens = pad_rows(rows, self.base.device)
        given = self._deep.behind(stack, which, self.base.embed(tokens.ids_BT), tokens.mask_BT)
        return Laid(given, tokens.mask_BT.long(), torch.zeros(len(rows), dtype=torch.long, device=self.base.device))

    @abstractmethod
    def at_first(self, given: dict[str, Any]) -> Tensor:
        """What the model makes of each row at its first column, or of the whole row: all that is read goes that way."""

    @cached_property
    def _deep(self) -> Deep | None:
        return deep_of(self.base, self.at_first)


class Deep:
    """How an encoder takes prefixes."""

    def __init__(self, base: FrozenBase, layout: Layout) -> None:
        self.base, self.layout, self._first = base, layout, first_position(base.model)

    def behind(self, stack: Stack, which: Sequence[int], embeds_BTD: Tensor, mask_BT: Tensor) -> dict[str, Any]:
        """What the model is given to run tokens behind the prefixes of a stack."""
        which_B = torch.tensor(list(which), device=self.base.device)
        spliced = splice_tokens(stack, which_B, mask_BT)
        return {
            "inputs_embeds": embeds_BTD,
            "attention_mask": spliced.mask_BS.long(),
            "position_ids": spliced.positions_BS + self._first,
            cache_argument(self.base.model): fixed_cache(self.layout.unfold(stack.vectors_KPD), which_B),
        }

    def keys_and_values(self, stack: Stack) -> Prefix:
        """Those that the encoder makes of vectors alone, nothing around them."""
        spliced, cache = splice_prompts(stack), DynamicCache()
        self.base.model.base_model(
            inputs_embeds=stack.vectors_KPD,
            attention_mask=spliced.mask_BS.long(),
            position_ids=spliced.positions_BS + self._first,
            **{cache_argument(self.base.model): cache},
        )
        return Prefix([(layer.keys, layer.values) for layer in cache.layers])


@torch.no_grad()
def deep_of(base: FrozenBase, run: Callable[[dict[str, Any]], Tensor]) -> Deep | None:
    """How a base takes prefixes, found on made-up rows; None of one that does not: it knows no keys and values of before, or
    none on some layer, masks them otherwise, or counts positions in a way of its own.

    Args:
        run: the model's answers for rows, one each.
    """
    if getattr(base.model.config, "attention_type", "original_full") != "original_full":
        return None  # long rows would be run in another way than those that are tried
    (first, *others), nothing = [token for (token,) in single_tokens(base)][:9], Deep(base, Layout(()))
    if len(others) < 8:
        return None
    try:
        prefix = nothing.keys_and_values(stack_prompts([base.embed(torch.tensor(others[:3], device=base.device))]))
        if not prefix.layers or any(keys.shape[2] != 3 for keys, _ in prefix.layers):
            return None
        found = Deep(base, Layout.of(prefix))
        return (
            found
            if found.layout.width != base.width and _holds(found, run, prefix, [others[3:7], [others[7], first]])
            else None
        )
    except Exception:  # a model whose forward knows no such cache says so in a hundred ways; none of them takes prefixes
        return None


def _holds(deep: Deep, run: Callable[[dict[str, Any]], Tensor], prefix: Prefix, rows: Sequence[Sequence[int]]) -> bool:
    """Whether a prefix that is masked is not there, a row is the same beside a longer one behind a longer prefix, and each
    layer's keys and values tell.

    Args:
        prefix: of one prompt of three virtual tokens.
        rows: a longer one and a shorter one.
    """
    base = deep.base
    tokens, short = pad_rows(rows, base.device), pad_rows(rows[1:], base.device)
    embeds_BTD, embeds_1TD = base.embed(tokens.ids_BT), base.embed(short.ids_BT)
    whole_PW = deep.layout.fold(prefix)[0]
    nothing = stack_padded(whole_PW[None].expand(2, -1, -1), [0, 0])
    plain = run({"inputs_embeds": embeds_BTD, "attention_mask": tokens.mask_BT.long()})
    masked = run(deep.behind(nothing, [0, 1], embeds_BTD, tokens.mask_BT))
    pair, single = stack_prompts([whole_PW, whole_PW[:1]]), stack_prompts([whole_PW[:1]])
    beside = run(deep.behind(pair, [0, 1], embeds_BTD, tokens.mask_BT))
    alone = run(deep.behind(single, [0], embeds_1TD, short.mask_BT))
    tolerance = 1e-3 if base.dtype == torch.float32 else 6e-2
    for one, two in ((masked, plain), (beside[1:], alone)):
        if not (one - two).float().norm() <= tolerance * two.float().norm().clamp_min(1e-6):
            return False
    with torch.enable_grad():
        leaf = Stack(pair.vectors_KPD.detach().requires_grad_(), pair.mask_KP, pair.lengths_K)
        answers = run(deep.behind(leaf, [0, 1], embeds_BTD, tokens.mask_BT))
        (gradient_KPW,) = torch.autograd.grad((answers.float() ** 3).sum(), leaf.vectors_KPD)
    return all(tensor[0].any() for tensor in deep.layout.unfold(gradient_KPW).tensors())
