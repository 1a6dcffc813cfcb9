"""Masked language models behind soft prompts: an answer's tokens are read off masks that stand where they would.

The input says where the masks stand by one mask token; without one they stand behind it. A label of several tokens has a
mask for each: its score is the sum of their log-probabilities, each without knowing the others, and labels of unequal length
are each read off a pass with as many masks as they have tokens. The prompt stands before all of the input, what the
tokenizer puts around a text (`[CLS]`, `[SEP]`) included; positions count from its first vector.

Shapes: B rows, T tokens, S = spliced tokens, L kept positions, N results of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.embedding import single_tokens
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack, chunk_by_length, pad_rows, splice_rows, stack_prompts

_EMBED_BUDGET = 4096
"""Padded tokens of a chunk of inputs that are embedded."""


class MaskedEncoder:
    """An :class:`~softprompt.model.architecture.Architecture` that shares nothing between rows."""

    shares_prefix = False
    layout = None

    def __init__(self, base: FrozenBase) -> None:
        """
        Raises:
            BaseModelError: the base's tokenizer has no mask token.
        """
        mask = base.tokenizer.mask_token_id
        if mask is None:
            raise BaseModelError(
                f"the tokenizer of {base.name} names no mask token, at which a masked language model answers; set "
                "mask_token in its tokenizer_config.json"
            )
        self.base, self._mask = base, int(mask)

    def lays_lines(self, longest: int) -> bool:
        """Never: a row's virtual tokens see its input."""
        return False

    def compute_prefix(self, stack: Stack) -> Prefix:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} is an encoder, whose prompts are run with each input; ask logits_behind")

    def run_cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any, mask_BS: Tensor) -> Tensor:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} is a masked language model, which writes no text; ask for labels")

    @torch.no_grad()
    def embed(self, inputs: Sequence[Ids]) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; with an input's frame among its tokens."""
        base, found = self.base, dict[int, Tensor]()
        nothing = stack_prompts([base.embedding.weight[:0]])
        for group in chunk_by_length([len(ids) for ids in inputs], 1 if base.batch_invariant else _EMBED_BUDGET):
            embeds_BSD, mask_BS, _ = self._spliced(nothing, [0] * len(group), [self._framed(inputs[i]) for i in group])
            states_BSD = base.model.base_model(inputs_embeds=embeds_BSD, attention_mask=mask_BS).last_hidden_state
            mask_BS1 = mask_BS[..., None]
            found |= zip(group, ((states_BSD.float() * mask_BS1).sum(1) / mask_BS1.sum(1)).cpu(), strict=True)
        return torch.stack([found[place] for place in range(len(inputs))])

    @cached_property
    def origin_D(self) -> Tensor:  # noqa: N802
        """See :class:`~softprompt.model.architecture.Architecture`."""
        return self.embed(single_tokens(self.base)).mean(0)

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; what is kept are the logits at masks. The first tail of
        a row has one more than it has tokens, which stands for the input itself; others have one for each of theirs."""
        if self.base.batch_invariant and len(inputs) > 1:
            each = zip(which, inputs, tails, strict=True)
            return torch.cat([self.logits_behind(stack, prefix, [k], [ids], [ends]) for k, ids, ends in each])
        owners, rows, keep = list[int](), list[list[int]](), list[range]()
        for owner, (ids, ends) in enumerate(zip(inputs, tails, strict=True)):
            for number, tail in enumerate(ends or ((),)):
                if masks := len(tail) + (number == 0):
                    row, first = self._masked(ids, masks)
                    owners.append(which[owner])
                    rows.append(row)
                    keep.append(range(first, first + masks))
        embeds_BSD, mask_BS, start_B = self._spliced(stack, owners, rows)
        longest = max(map(len, keep))
        keep_BL = torch.tensor([[*kept, *[kept[-1]] * (longest - len(kept))] for kept in keep], device=self.base.device)
        logits_BLV = self._logits_at(embeds_BSD, mask_BS, keep_BL + start_B[:, None])
        places = [(row, place) for row, kept in enumerate(keep) for place in range(len(kept))]
        row_N, place_N = torch.tensor(places, device=self.base.device).unbind(1)
        return logits_BLV[row_N, place_N]

    def _framed(self, ids: Ids) -> list[int]:
        before, behind = self.base.frame
        return [*before, *ids, *behind]

    def _masked(self, ids: Ids, masks: int) -> tuple[list[int], int]:
        """A framed input with so many masks where its mask is, else behind it; and the place of the first."""
        at = ids.index(self._mask) if self._mask in ids else len(ids)
        return self._framed([*ids[:at], *[self._mask] * masks, *ids[at + 1 :]]), at + len(self.base.frame[0])

    def _spliced(self, stack: Stack, which: Sequence[int], rows: Sequence[Ids]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings and mask of rows behind their prompts, and where each row's tokens start. Positions are the model's
        own: it counts all columns from the first, and padding stands behind."""
        device = self.base.device
        tokens, which_B = pad_rows(rows, device), torch.tensor(list(which), device=device)
        embeds_BSD, spliced, start_B = splice_rows(stack, which_B, self.base.embed(tokens.ids_BT), tokens.mask_BT)
        return embeds_BSD, spliced.mask_BS.long(), start_B

    def _logits_at(self, embeds_BSD: Tensor, mask_BS: Tensor, keep_BL: Tensor, *, sliced: bool | None = None) -> Tensor:
        """Logits B x L x V at chosen positions: the head sees their states alone, where that is found to be the same."""
        model = self.base.model
        if not (self._slices if sliced is None else sliced):
            logits: Tensor = model(inputs_embeds=embeds_BSD, attention_mask=mask_BS).logits
            return logits.gather(1, keep_BL[:, :, None].expand(-1, -1, logits.shape[2]))

        def pick(module: Any, given: Any, output: Any) -> Any:
            states_BSD = output.last_hidden_state
            output.last_hidden_state = states_BSD.gather(1, keep_BL[:, :, None].expand(-1, -1, states_BSD.shape[2]))
            return output

        hook = model.base_model.register_forward_hook(pick)
        try:
            logits = model(inputs_embeds=embeds_BSD, attention_mask=mask_BS).logits
        finally:
            hook.remove()
        return logits

    @cached_property
    @torch.no_grad()
    def _slices(self) -> bool:
        """Whether the model's head makes of chosen states what it makes of them among all."""
        rows = [[self._mask] * 3, [self._mask] * 5]
        embeds_BSD, mask_BS, _ = self._spliced(stack_prompts([self.base.embedding.weight[:0]]), [0, 0], rows)
        keep_BL = torch.tensor([[0, 2], [4, 1]], device=self.base.device)
        whole = self._logits_at(embeds_BSD, mask_BS, keep_BL, sliced=False)
        try:
            found = self._logits_at(embeds_BSD, mask_BS, keep_BL, sliced=True)
        except Exception:  # a model that is put together otherwise says so in a hundred ways
            return False
        tolerance = 1e-3 if self.base.dtype == torch.float32 else 6e-2
        near = found.shape == whole.shape and (found - whole).float().norm() <= tolerance * whole.float().norm()
        return bool(near)
