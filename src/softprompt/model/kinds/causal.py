"""Causal models behind soft prompts.

In a causal model what the base makes of a prompt does not depend on the input behind it. So each prompt goes through the
base once, and rows attend to its keys and values: K prompts and B rows cost `K*P + B*T` tokens instead of `B*(P + T)`, and
autograd carries the gradient back through the keys and values. It equals running `[prompt][tokens]` row by row to
rounding, which is checked on each base before it is relied on.

Shapes: K prompts, P virtual tokens, B rows, T tokens, S = spliced tokens, L kept positions, N logits kept of all rows,
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.embedding import single_tokens
from softprompt.model.graphs import COLUMNS, Graphs
from softprompt.model.lines import Ids, Tails, even_out, lay_lines, pick_logits, splice_lines, unfold_rows
from softprompt.model.prefix import Layout, Prefix, cache_argument, fixed_cache, layout_for
from softprompt.model.splice import (
    Spliced,
    Stack,
    chunk_by_length,
    pad_rows,
    splice_prompts,
    splice_rows,
    splice_tokens,
    stack_prompts,
)

LINE = 128
"""Columns of a line. Shorter lines copy prompts more often, longer ones multiply more masked pairs of tokens."""
_EMBED_BUDGET = 4096
"""Padded tokens of a chunk of inputs that are embedded."""


class Causal:
    """An :class:`~softprompt.model.architecture.Architecture`."""

    head = None

    def __init__(self, base: FrozenBase) -> None:
        self.base = base

    # What the base allows

    @cached_property
    def shares_prefix(self) -> bool:
        """Whether the shared prefix equals concatenation on this base, in logits and in the prompts' gradient, found on a
        few made-up rows with unequal prompts. State-space models and models that look at the whole input fail it."""
        return self._agrees(self.run_padded)

    def lays_lines(self, longest: int) -> bool:
        """Whether rows of up to `longest` tokens, virtual ones among them, can be run in lines: on a base where that equals
        concatenation, which models fail that make masks or positions of their own; and within its attention window."""
        return (self.base.window is None or longest <= self.base.window) and self.lines_agree

    @cached_property
    def lines_agree(self) -> bool:
        """Whether rows in lines equal concatenation on this base; found likewise."""
        return self.shares_prefix and self._agrees(self.run_lines)

    @cached_property
    @torch.no_grad()
    def layout(self) -> Layout | None:
        """How prefixes lie in a matrix on this base, found by running a token. None where prompts cannot be shared, and
        where a row of it could be taken for an embedding."""
        if not self.shares_prefix:
            return None
        layout = Layout.of(self.compute_prefix(stack_prompts([self.base.embedding.weight[:1].detach()])))
        return None if layout.width == self.base.width else layout

    @torch.enable_grad()  # also when the first to ask is an engine, which runs without gradients
    def _agrees(self, run: Callable[[Stack, Prefix, Sequence[int], Sequence[Ids], Sequence[Tails]], Tensor]) -> bool:
        base = self.base
        generator = torch.Generator().manual_seed(0)
        vocabulary, unusable = base.embedding.weight.shape[0], base.spelling.unusable
        instead = next(token for token in range(vocabulary) if token not in unusable)

        def some(count: int) -> list[int]:
            ids: list[int] = torch.randint(0, vocabulary, (count,), generator=generator).tolist()
            return [instead if token in unusable else token for token in ids]

        inputs, which = [some(4), some(3), some(5)], [0, 1, 1]
        tails: list[Tails] = [[some(2), some(1)], [], []]
        prompts = [base.embed(torch.tensor(some(count), device=base.device)).detach() for count in (4, 2)]
        results = []
        for shared in (True, False):
            leaf = stack_prompts(prompts)
            stack = Stack(leaf.vectors_KPD.detach().requires_grad_(), leaf.mask_KP, leaf.lengths_K)
            try:
                if shared:
                    logits_NV = run(stack, self.compute_prefix(stack), which, inputs, tails)
                else:
                    logits_NV = self.run_padded(stack, None, which, inputs, tails)
                scores = logits_NV.float().log_softmax(-1)[..., :3].sum()
                (gradient,) = torch.autograd.grad(scores, stack.vectors_KPD)
            except Exception:  # a base whose forward knows no such cache says so in a hundred ways; none of them shares
                if shared:
                    return False
                raise
            results.append((logits_NV.detach().float(), gradient.float()))
        tolerance = 1e-3 if base.dtype == torch.float32 else 6e-2
        return all(
            bool((shared - plain).norm() <= tolerance * plain.norm().clamp_min(1e-6))
            for shared, plain in zip(*results, strict=True)
        )

    # Inputs without prompts

    @torch.no_grad()
    def embed(self, inputs: Sequence[Ids], prompts: Sequence[Tensor] | None = None) -> Tensor:
        base = self.base
        embeddings_ND = torch.zeros(len(inputs), base.width)
        before = [0] * len(inputs) if prompts is None else [len(prompt_PD) for prompt_PD in prompts]
        for group in chunk_by_length([n + len(ids) for n, ids in zip(before, inputs, strict=True)], _EMBED_BUDGET):
            tokens = pad_rows([[0] * before[i] + list(inputs[i]) for i in group], base.device)
            embeds_BTD = base.embed(tokens.ids_BT)
            if prompts is not None:
                embeds_BTD = embeds_BTD.clone()
                for place, i in enumerate(group):
                    embeds_BTD[place, : before[i]] = prompts[i].to(base.device, base.dtype)
            positions_BT = torch.arange(tokens.mask_BT.shape[1], device=base.device).expand(tokens.mask_BT.shape)
            output = base.model.base_model(
                inputs_embeds=embeds_BTD,
                attention_mask=tokens.mask_BT,
                position_ids=positions_BT,
                use_cache=False,
            )
            starts_B1 = torch.tensor([[before[i]] for i in group], device=base.device)
            own_BT = tokens.mask_BT & (positions_BT >= starts_B1)
            states_BTD = output.last_hidden_state.float().masked_fill(~own_BT[..., None], 0)
            embeddings_ND[group] = (states_BTD.sum(1) / own_BT.sum(1, keepdim=True)).cpu()
        return embeddings_ND

    @cached_property
    def origin_D(self) -> Tensor:  # noqa: N802
        return self.embed(single_tokens(self.base)).mean(0)

    # Rows behind prompts

    def compute_prefix(self, stack: Stack) -> Prefix:
        if (width := stack.vectors_KPD.shape[2]) != self.base.width:
            return layout_for(self.base, self.layout, width).unfold(stack.vectors_KPD)
        cache = DynamicCache()
        none_K0 = torch.zeros(len(stack.vectors_KPD), 0, dtype=torch.long, device=self.base.device)
        self._logits(stack.vectors_KPD, splice_prompts(stack), none_K0, cache)
        if not cache.layers or any(layer.keys.shape[2] != stack.columns for layer in cache.layers):
            raise BaseModelError(
                f"{self.base.name} kept no keys and values of its prompts; put the model in eval mode: model.eval()"
            )
        return Prefix([(layer.keys, layer.values) for layer in cache.layers])

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`: by the shared prefix where one is given, and then in
        lines where the base allows them; else by concatenation."""
        if prefix is not None:
            deepest = max(len(ids) + max(map(len, ends), default=0) for ids, ends in zip(inputs, tails, strict=True))
            if self.lays_lines(int(stack.lengths_K.max()) + deepest):
                return self.run_lines(stack, prefix, which, inputs, tails)
        return self.run_padded(stack, prefix, which, inputs, tails, played=True)

    def run_lines(
        self, stack: Stack, prefix: Prefix, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """As :meth:`logits_behind`, with the rows laid end to end, which computes next to no padding, copies each prompt's
        keys and values once a line instead of once a row, and runs an input once for all its tails. For bases and rows that
        :meth:`lays_lines` allows."""
        base = self.base
        lines = lay_lines(inputs, tails, which, LINE, base.device)
        spliced = splice_lines(stack, lines)
        mask_N1WS = torch.zeros(spliced.mask_BS.shape, dtype=base.dtype, device=base.device)
        mask_N1WS = mask_N1WS.masked_fill(~spliced.mask_BS, torch.finfo(base.dtype).min)
        keep: list[list[int]] = [[] for _ in lines.which_N]
        found: list[tuple[int, int]] = []
        for line, start, ids, ends in zip(lines.line_B, lines.start_B, inputs, tails, strict=True):
            first, count = start + len(ids) - 1, 1 + sum(map(len, ends))
            found += [(line, len(keep[line]) + slot) for slot in range(count)]
            keep[line] += range(first, first + count)
        logits_BLV = self._logits(
            base.embed(lines.ids_NW),
            Spliced(mask_N1WS, spliced.positions_BS),
            even_out(keep, base.device),
            fixed_cache(prefix, lines.which_N),
        )
        return pick_logits(logits_BLV, found)

    def run_padded(
        self,
        stack: Stack,
        prefix: Prefix | None,
        which: Sequence[int],
        inputs: Sequence[Ids],
        tails: Sequence[Tails],
        *,
        played: bool = False,
    ) -> Tensor:
        """As :meth:`logits_behind`, with a row of the batch for each tail, padded to the longest. Without a prefix each row
        carries its whole prompt: the slow twin of the shared prefix, and the way for bases on which it does not hold; and
        on a GPU the quicker one for small passes, which are `played` where there is a recording."""
        base = self.base
        unfolded = unfold_rows(inputs, tails)
        which_B = torch.tensor([which[owner] for owner in unfolded.owner], device=base.device)
        tokens, keep_BL = pad_rows(unfolded.rows, base.device), even_out(unfolded.keep, base.device)
        embeds_BTD = base.embed(tokens.ids_BT)
        if prefix is None:
            embeds_BSD, spliced, start_B = splice_rows(stack, which_B, embeds_BTD, tokens.mask_BT)
            keep_BL = keep_BL + start_B[:, None]
            made = self._played(embeds_BSD, spliced, keep_BL) if played and embeds_BSD.requires_grad else None
            logits_BLV = made if made is not None else self._logits(embeds_BSD, spliced, keep_BL)
        else:
            spliced = splice_tokens(stack, which_B, tokens.mask_BT)
            logits_BLV = self._logits(embeds_BTD, spliced, keep_BL, fixed_cache(prefix, which_B))
        return pick_logits(logits_BLV, [(row, slot) for row, kept in enumerate(unfolded.keep) for slot in range(len(kept))])

    @cached_property
    def graphs(self) -> Graphs | None:
        """Its recorded passes, on a GPU."""
        if self.base.device.type != "cuda":
            return None
        return Graphs(self.base, lambda embeds, mask, positions, keep: self._logits(embeds, Spliced(mask, positions), keep))

    def _played(self, embeds_BSD: Tensor, spliced: Spliced, keep_BL: Tensor) -> Tensor | None:
        """Logits of whole rows by a recorded pass, if there is one for them. Its masks are its own, as of lines."""
        (rows, columns), graphs = spliced.mask_BS.shape, self.graphs
        if graphs is None or not graphs.takes(rows, columns, keep_BL.shape[1]) or not self.lays_lines(columns + COLUMNS):
            return None
        return graphs.run(embeds_BSD, spliced.mask_BS, spliced.positions_BS, keep_BL)

    def run_cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any, mask_BS: Tensor) -> Tensor:
        last_B1 = torch.full((len(ids_BT), 1), ids_BT.shape[1] - 1, device=self.base.device)
        return self._logits(self.base.embed(ids_BT), Spliced(mask_BS, positions_BT), last_B1, cache)[:, 0]

    def _logits(self, embeds_BTD: Tensor, spliced: Spliced, keep_BL: Tensor, cache: Any = None) -> Tensor:
        """Logits B x L x V, in the base's dtype, at the kept positions of a pass, of which there may be none.

        Positions are always a tensor: a slice of hidden states, which transformers takes for a number, is not contiguous,
        and torch multiplies it by a copy of the head for each row."""
        base = self.base
        more: dict[str, Any] = {} if cache is None else {cache_argument(base.model): cache}
        if base.slices_logits:
            more["logits_to_keep"] = keep_BL
        logits: Tensor = base.model(
            inputs_embeds=embeds_BTD,
            attention_mask=spliced.mask_BS,
            position_ids=spliced.positions_BS,
            use_cache=cache is not None,
            **more,
        ).logits
        if base.slices_logits:
            return logits
        return logits.gather(1, keep_BL[:, :, None].expand(-1, -1, logits.shape[2]))
