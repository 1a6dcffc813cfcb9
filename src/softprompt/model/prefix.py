"""The shared prefix: each prompt goes through the base once, and rows attend to its keys and values.

In a causal model what the base makes of a prompt does not depend on the input behind it. So K prompts and B rows cost
`K*P + B*T` tokens instead of `B*(P + T)`, and autograd carries the gradient back through the keys and values. It equals
running `[prompt][tokens]` row by row to rounding; :func:`shares_prefix` checks that on each base before it is relied on.

Shapes: K prompts, P virtual tokens, B rows, T tokens, L kept positions, H heads of keys, d width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.splice import (
    Stack,
    Tokens,
    lay_lines,
    pad_rows,
    splice_lines,
    splice_prompts,
    splice_rows,
    splice_tokens,
    stack_prompts,
    unfold_rows,
)

LINE = 128
"""Columns of a line. Shorter lines copy prompts more often, longer ones multiply more masked pairs of tokens."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of K prompts, layer by layer, each K x H x P x d."""

    layers: list[tuple[Tensor, Tensor]]

    def detached(self) -> Prefix:
        """The same values as leaves of their own, so that several backward passes add up in their `.grad`."""
        return Prefix([(k.detach().requires_grad_(), v.detach().requires_grad_()) for k, v in self.layers])

    def tensors(self) -> list[Tensor]:
        """All keys and values in one flat list."""
        return [tensor for layer in self.layers for tensor in layer]


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values that are read and never grow, so that a layer can be run again on the way back."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def new_cache(layers: Sequence[tuple[Tensor, Tensor]] = (), *, grows: bool = True) -> Any:
    """A transformers cache that holds these keys and values.

    Every layer is a plain one, also where the model has sliding windows: the mask does the sliding, and a cache that drops
    keys would drop those of the prompt.

    Args:
        grows: keep what is run behind them too, as generation needs.
    """
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer() if grows else _FixedLayer()
        layer.dtype, layer.device = keys.dtype, keys.device
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        cache.layers.append(layer)
    return cache


def compute_prefix(base: FrozenBase, stack: Stack) -> Prefix:
    """Run K prompts alone and keep their keys and values.

    Raises:
        BaseModelError: the base kept none, as in train mode with the library's gradient checkpointing; rows behind it
            would run without their prompts.
    """
    spliced = splice_prompts(stack)
    cache = new_cache()
    keep = {"logits_to_keep": 1} if base.slices_logits else {}
    base.model(
        inputs_embeds=stack.vectors_KPD,
        attention_mask=spliced.mask_BS,
        position_ids=spliced.positions_BS,
        past_key_values=cache,
        use_cache=True,
        **keep,
    )
    if not cache.layers or any(layer.keys.shape[2] != stack.columns for layer in cache.layers):
        raise BaseModelError(f"{base.name} kept no keys and values of its prompts; put the model in eval mode: model.eval()")
    return Prefix([(layer.keys, layer.values) for layer in cache.layers])


def run_tokens(
    base: FrozenBase,
    stack: Stack,
    prefix: Prefix,
    which_B: Tensor,
    tokens: Tokens,
    keep_BL: Tensor,
    *,
    keep_cache: bool = False,
) -> tuple[Tensor, Any]:
    """Logits (B x L x V, in the base's dtype) at chosen positions of token rows behind their prompts, and the cache
    (columns: prompt, padded on the left; then, with `keep_cache`, tokens, padded on the right).

    Args:
        which_B: the prompt of each row.
        keep_BL: positions among a row's tokens, counted from 0.
    """
    spliced = splice_tokens(stack, which_B, tokens.mask_BT)
    cache = new_cache([(keys[which_B], values[which_B]) for keys, values in prefix.layers], grows=keep_cache)
    output = base.model(
        inputs_embeds=base.embed(tokens.ids_BT),
        attention_mask=spliced.mask_BS,
        position_ids=spliced.positions_BS,
        past_key_values=cache,
        use_cache=True,
        **({"logits_to_keep": keep_BL} if base.slices_logits else {}),
    )
    return _kept(base, output.logits, keep_BL), cache


def run_lines(
    base: FrozenBase,
    stack: Stack,
    prefix: Prefix,
    which: Sequence[int],
    rows: Sequence[Sequence[int]],
    keep: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """As :func:`logits_at`, with the rows laid end to end, which computes next to no padding, copies each prompt's keys and
    values once a line instead of once a row, and runs a stem once for all its tails. For bases and rows that
    :func:`lays_lines` allows."""
    lines = lay_lines(rows, which, LINE, base.device, tails)
    spliced = splice_lines(stack, lines)
    hidden = torch.finfo(base.dtype).min
    mask_N1WS = torch.zeros(spliced.mask_BS.shape, dtype=base.dtype, device=base.device)
    mask_N1WS = mask_N1WS.masked_fill(~spliced.mask_BS, hidden)
    kept: list[list[int]] = [[] for _ in lines.which_N]
    found: list[tuple[int, int]] = []
    for line, start, positions in zip(lines.line_B, lines.start_B, keep, strict=True):
        found += [(line, len(kept[line]) + slot) for slot in range(len(positions))]
        kept[line] += [start + position for position in positions]
    output = base.model(
        inputs_embeds=base.embed(lines.ids_NW),
        attention_mask=mask_N1WS,
        position_ids=spliced.positions_BS,
        past_key_values=new_cache([(k[lines.which_N], v[lines.which_N]) for k, v in prefix.layers], grows=False),
        use_cache=True,
        **({"logits_to_keep": _even(kept, base.device)} if base.slices_logits else {}),
    )
    return _pick(_kept(base, output.logits, _even(kept, base.device)), found)


def run_padded(
    base: FrozenBase,
    stack: Stack,
    prefix: Prefix | None,
    which: Sequence[int],
    rows: Sequence[Sequence[int]],
    keep: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """As :func:`logits_at`, with a row of the batch for each tail or row without, padded to the longest."""
    made = unfold_rows(rows, keep, tails)
    which_B = torch.tensor([which[owner] for owner in made.owner], device=base.device)
    tokens, keep_BL = pad_rows(made.rows, base.device), _even(made.keep, base.device)
    if prefix is None:
        return _pick(run_spliced(base, stack, which_B, tokens, keep_BL), made.found)
    return _pick(run_tokens(base, stack, prefix, which_B, tokens, keep_BL)[0], made.found)


def _even(keep: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows with fewer positions than the longest repeat their last one."""
    longest = max(len(places) for places in keep)
    return torch.tensor([[*places, *[places[-1]] * (longest - len(places))] for places in keep], device=device)


def _pick(logits_BLV: Tensor, found: Sequence[tuple[int, int]]) -> Tensor:
    row_N, slot_N = torch.tensor(found, device=logits_BLV.device).unbind(1)
    return logits_BLV[row_N, slot_N]


def run_spliced(base: FrozenBase, stack: Stack, which_B: Tensor, tokens: Tokens, keep_BL: Tensor) -> Tensor:
    """The same logits by plain concatenation: each row carries its whole prompt. The slow twin of the shared prefix, and the
    way for bases on which it does not hold."""
    embeds_BSD, spliced, start_B = splice_rows(stack, which_B, base.embed(tokens.ids_BT), tokens.mask_BT)
    keep_BL = keep_BL + start_B[:, None]
    output = base.model(
        inputs_embeds=embeds_BSD,
        attention_mask=spliced.mask_BS,
        position_ids=spliced.positions_BS,
        use_cache=False,
        **({"logits_to_keep": keep_BL} if base.slices_logits else {}),
    )
    return _kept(base, output.logits, keep_BL)


def _kept(base: FrozenBase, logits: Tensor, keep_BL: Tensor) -> Tensor:
    if base.slices_logits:
        return logits
    return logits.gather(1, keep_BL[:, :, None].expand(-1, -1, logits.shape[2]))


def logits_at(
    base: FrozenBase,
    stack: Stack,
    prefix: Prefix | None,
    which: Sequence[int],
    rows: Sequence[Sequence[int]],
    keep: Sequence[Sequence[int]],
    tails: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Logits N x V at chosen positions of ragged rows, end to end; by the shared prefix where one is given, and then in
    lines where the base allows them; else by concatenation.

    Args:
        which: the prompt of each row.
        keep: positions among each row's tokens, counted from 0; N in all.
        tails: the lengths of each row's tails, which end it and do not see each other; none by default.
    """
    if prefix is not None and lays_lines(base, int(stack.lengths_K.max()) + max(_depths(rows, tails))):
        return run_lines(base, stack, prefix, which, rows, keep, tails)
    return run_padded(base, stack, prefix, which, rows, keep, tails)


def _depths(rows: Sequence[Sequence[int]], tails: Sequence[Sequence[int]] | None) -> list[int]:
    """Tokens of each row with the longest of its tails alone."""
    if tails is None:
        return [len(ids) for ids in rows]
    return [len(ids) - sum(ends) + max(ends, default=0) for ids, ends in zip(rows, tails, strict=True)]


def shares_prefix(base: FrozenBase) -> bool:
    """Whether the shared prefix equals concatenation on this base, in logits and in the prompts' gradient.

    Run once on a few made-up rows with unequal prompts; remembered on the base. State-space models and models that look at
    the whole input fail it and are run by concatenation.
    """
    if base._shared_prefix is None:
        object.__setattr__(base, "_shared_prefix", _agrees(base, run_padded))
    return bool(base._shared_prefix)


def lays_lines(base: FrozenBase, longest: int) -> bool:
    """Whether rows of up to `longest` tokens, virtual ones among them, can be run in lines: on a base where that equals
    concatenation, which models fail that make masks or positions of their own (checked once, as above); and within the
    base's attention window."""
    if base.window is not None and longest > base.window:
        return False
    if base._lines is None:
        object.__setattr__(base, "_lines", shares_prefix(base) and _agrees(base, run_lines))
    return bool(base._lines)


_Rows = Sequence[Sequence[int]]
_Run = Callable[[FrozenBase, Stack, "Prefix", Sequence[int], _Rows, _Rows, _Rows], Tensor]


@torch.enable_grad()  # also when the first to ask is an engine, which runs without gradients
def _agrees(base: FrozenBase, run: _Run) -> bool:
    generator = torch.Generator().manual_seed(0)
    vocabulary = base.embedding.weight.shape[0]

    def some(count: int) -> list[int]:
        return torch.randint(0, vocabulary, (count,), generator=generator).tolist()

    rows, which, tails = [some(7), some(3), some(5)], [0, 1, 1], [[2, 1], [], []]
    keep = [[3, 5, 6], [2], [4]]
    prompts = [base.embed(torch.tensor(some(count), device=base.device)).detach() for count in (4, 2)]
    results = []
    for shared in (True, False):
        leaf = stack_prompts(prompts)
        stack = Stack(leaf.vectors_KPD.detach().requires_grad_(), leaf.mask_KP, leaf.lengths_K)
        try:
            if shared:
                logits = run(base, stack, compute_prefix(base, stack), which, rows, keep, tails)
            else:
                logits = run_padded(base, stack, None, which, rows, keep, tails)
            scores = logits.float().log_softmax(-1)[..., :3].sum()
            (gradient,) = torch.autograd.grad(scores, stack.vectors_KPD)
        except Exception:  # a base whose forward knows no such cache says so in a hundred ways; none of them shares
            if shared:
                return False
            raise
        results.append((logits.detach().float(), gradient.float()))
    tolerance = 1e-3 if base.dtype == torch.float32 else 6e-2
    return all(
        bool((shared - plain).norm() <= tolerance * plain.norm().clamp_min(1e-6))
        for shared, plain in zip(*results, strict=True)
    )
