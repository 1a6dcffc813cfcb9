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
from softprompt.model.kinds.deep import DeepEncoder
from softprompt.model.kinds.unshared import Laid
from softprompt.model.lines import Ids, Tails, even_out, pick_logits
from softprompt.model.splice import Stack, no_prompt, stack_prompts


class MaskedEncoder(DeepEncoder):
    """Masked language models."""

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
        super().__init__(base)
        self._mask = int(mask)

    def run_rows(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]) -> Tensor:
        """See :meth:`Unshared.run_rows`; what is kept are the logits at masks. The first tail of a row has one more than it
        has tokens, which stands for the input itself; others have one for each of theirs."""
        owners, rows, keep = list[int](), list[list[int]](), list[range]()
        for owner, (ids, ends) in enumerate(zip(inputs, tails, strict=True)):
            for number, tail in enumerate(ends or ((),)):
                if masks := len(tail) + (number == 0):
                    row, first = self._masked(ids, masks)
                    owners.append(which[owner])
                    rows.append(row)
                    keep.append(range(first, first + masks))
        laid = self.lay(stack, owners, rows)
        logits_BLV = self._logits_at(laid, even_out(keep, self.base.device) + laid.start_B[:, None])
        return pick_logits(logits_BLV, [(row, slot) for row, kept in enumerate(keep) for slot in range(len(kept))])

    def at_first(self, given: dict[str, Any]) -> Tensor:
        logits: Tensor = self.base.model(**given).logits
        return logits[:, 0]

    def _masked(self, ids: Ids, masks: int) -> tuple[list[int], int]:
        """A framed input with so many masks where its mask is, else behind it; and the place of the first."""
        at = ids.index(self._mask) if self._mask in ids else len(ids)
        return self.framed([*ids[:at], *[self._mask] * masks, *ids[at + 1 :]]), at + len(self.base.frame[0])

    def _logits_at(self, laid: Laid, keep_BL: Tensor, *, sliced: bool | None = None) -> Tensor:
        """Logits B x L x V at chosen positions: the head sees their states alone, where that is found to be the same."""
        model = self.base.model
        if not (self._slices if sliced is None else sliced):
            logits: Tensor = model(**laid.given).logits
            return logits.gather(1, keep_BL[:, :, None].expand(-1, -1, logits.shape[2]))

        def pick(module: Any, given: Any, output: Any) -> Any:
            states_BSD = output.last_hidden_state
            output.last_hidden_state = states_BSD.gather(1, keep_BL[:, :, None].expand(-1, -1, states_BSD.shape[2]))
            return output

        hook = model.base_model.register_forward_hook(pick)
        try:
            logits = model(**laid.given).logits
        finally:
            hook.remove()
        return logits

    @cached_property
    @torch.no_grad()
    def _slices(self) -> bool:
        """Whether the model's head makes of chosen states what it makes of them among all."""
        rows = [[self._mask] * 3, [self._mask] * 5]
        laid = self.lay(stack_prompts([no_prompt(self.base)]), [0, 0], rows)
        keep_BL = torch.tensor([[0, 2], [4, 1]], device=self.base.device)
        whole = self._logits_at(laid, keep_BL, sliced=False)
        try:
            found = self._logits_at(laid, keep_BL, sliced=True)
        except Exception:  # a model that is put together otherwise says so in a hundred ways
            return False
        tolerance = 1e-3 if self.base.dtype == torch.float32 else 6e-2
        near = found.shape == whole.shape and (found - whole).float().norm() <= tolerance * whole.float().norm()
        return bool(near)
