"""What architectures with an encoder have in common: it sees all of its input at every token, so what it makes of a prompt
is another thing for each row, and nothing is shared between rows.

Inputs are framed by what the tokenizer puts around a text, such as T5's `</s>` behind it; the prompt stands before all that.

Shapes: B rows, S = spliced tokens, N results of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.bases.head import Head
from softprompt.errors import BaseModelError
from softprompt.model.embedding import single_tokens
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import Layout, Prefix
from softprompt.model.splice import Stack, chunk_by_length, no_prompt, pad_rows, splice_rows, stack_prompts

EMBED_BUDGET = 4096
"""Padded tokens of a chunk of inputs that are embedded."""


@dataclass(frozen=True)
class Laid:
    """B rows ready to be run behind their prompts."""

    given: dict[str, Any]
    """What the model, or its encoder, is called with."""
    mask_BS: Tensor
    """Of the columns that are run: 1 where there is a token, virtual or real."""
    start_B: Tensor
    """The column at which each row's tokens start."""


class Unshared(ABC):
    """An :class:`~softprompt.model.architecture.Architecture` that runs each row with its whole prompt."""

    shares_prefix = False

    def __init__(self, base: FrozenBase) -> None:
        self.base = base

    @property
    def head(self) -> Head | None:
        """None, but for those that answer through one."""
        return None

    @property
    def layout(self) -> Layout | None:
        """None, but for those that take prefixes."""
        return None

    @abstractmethod
    def run_encoder(self, laid: Laid) -> Tensor:
        """The encoder's last hidden states, B x S x D."""

    @abstractmethod
    def run_rows(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]) -> Tensor:
        """As :meth:`logits_behind`, all rows together."""

    def lays_lines(self, longest: int) -> bool:
        """Never: a row's virtual tokens see its input."""
        return False

    def compute_prefix(self, stack: Stack) -> Prefix:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} runs prompts with each input; ask logits_behind")

    def run_cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any, mask_BS: Tensor) -> Tensor:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} runs prompts with each input; ask logits_behind")

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; a row at a time where no bit of one may depend on
        others."""
        if not self.base.batch_invariant:
            return self.run_rows(stack, which, inputs, tails)
        rows = zip(which, inputs, tails, strict=True)
        return torch.cat([self.run_rows(stack, [k], [ids], [ends]) for k, ids, ends in rows])

    @torch.no_grad()
    def embed(self, inputs: Sequence[Ids], prompts: Sequence[Tensor] | None = None) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; by the encoder, an input's frame among its tokens."""
        assert prompts is None
        base, found = self.base, dict[int, Tensor]()
        nothing = stack_prompts([no_prompt(base)])
        for group in chunk_by_length([len(ids) for ids in inputs], 1 if base.batch_invariant else EMBED_BUDGET):
            laid = self.lay(nothing, [0] * len(group), [self.framed(inputs[i]) for i in group])
            states_BSD, mask_BS1 = self.run_encoder(laid), laid.mask_BS[..., None]
            found |= zip(group, ((states_BSD.float() * mask_BS1).sum(1) / mask_BS1.sum(1)).cpu(), strict=True)
        return torch.stack([found[place] for place in range(len(inputs))])

    @cached_property
    def origin_D(self) -> Tensor:  # noqa: N802
        """See :class:`~softprompt.model.architecture.Architecture`."""
        return self.embed(single_tokens(self.base)).mean(0)

    def framed(self, ids: Ids) -> list[int]:
        """An input with what the tokenizer puts around it."""
        before, behind = self.base.frame
        return [*before, *ids, *behind]

    def lay(self, stack: Stack, which: Sequence[int], rows: Sequence[Ids]) -> Laid:
        """Framed rows behind their prompts, one sequence each. Positions are the model's own: it counts all columns from the
        first, and padding stands behind."""
        device = self.base.device
        tokens, which_B = pad_rows(rows, device), torch.tensor(list(which), device=device)
        embeds_BSD, spliced, start_B = splice_rows(stack, which_B, self.base.embed(tokens.ids_BT), tokens.mask_BT)
        mask_BS = spliced.mask_BS.long()
        return Laid({"inputs_embeds": embeds_BSD, "attention_mask": mask_BS}, mask_BS, start_B)
