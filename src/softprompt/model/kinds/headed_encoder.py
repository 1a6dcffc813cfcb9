"""Encoders that answer through a head: a linear layer on what an input becomes, trained and kept beside its soft prompt.

An encoder without any head is pooled by the mean over the input's own tokens, those of the frame among them and the soft
prompt not. A sequence classifier is pooled as transformers and PEFT pool it, by its own layers up to the last one, in whose
place the head stands: most look at the first column alone, which is the prompt's first vector. The rows of the head stand
behind the vectors (:mod:`softprompt.bases.head`); how many there are the tails of a row tell, an empty one for each label.

Shapes: K prompts, B rows, S = spliced tokens, F features, C labels, N results of all rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.behaviour import answering_layer, features_before
from softprompt.bases.head import Head
from softprompt.errors import BaseModelError
from softprompt.model.kinds.deep import DeepEncoder
from softprompt.model.kinds.unshared import EMBED_BUDGET
from softprompt.model.lines import Ids, Tails
from softprompt.model.splice import Stack, chunk_by_length, no_prompt, stack_prompts


class HeadedEncoder(DeepEncoder):
    """Encoders without a head, and sequence classifiers without theirs."""

    @cached_property
    def head(self) -> Head:
        """See :class:`~softprompt.model.architecture.Architecture`."""
        features = self.features([[self._any_token]]).shape[1]
        return Head(features, self.base.width, "mean" if self._layer is None else self._layer[0])

    @torch.no_grad()
    def features(self, inputs: Sequence[Ids]) -> Tensor:
        """What a head is given of inputs without any prompt, N x F float32 on the CPU, a row for each input on its own."""
        found: dict[int, Tensor] = {}
        nothing = stack_prompts([no_prompt(self.base)])
        for group in chunk_by_length([len(ids) for ids in inputs], 1 if self.base.batch_invariant else EMBED_BUDGET):
            rows = [self.framed(inputs[place]) for place in group]
            found |= zip(group, self._features(nothing, [0] * len(group), rows).cpu(), strict=True)
        return torch.stack([found[place] for place in range(len(inputs))])

    def run_rows(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]) -> Tensor:
        """See :meth:`Unshared.run_rows`; a row has one result, a logit for each label, and minus infinity where others of
        the batch have more labels."""
        labels = {k: len(ends) for k, ends in zip(which, tails, strict=True)}
        kind = self.head.on(stack.vectors_KPD.shape[2])
        prompts, heads = dict[int, Tensor](), dict[int, tuple[Tensor, Tensor]]()
        for place, (k, count) in enumerate(labels.items()):
            own_RD = stack.vectors_KPD[k, stack.columns - int(stack.lengths_K[k]) :]
            vectors_PD = own_RD[: len(own_RD) - kind.rows(count)]
            if not count or len(own_RD) < kind.rows(count):
                raise BaseModelError(
                    f"a prompt of {len(own_RD)} rows has no head for {count} labels on {self.base.name}, which takes "
                    f"{kind.rows(count)} of them; train one on this base"
                )
            prompts[k], heads[place] = vectors_PD, kind.unpack(own_RD, count)
        places = {k: place for place, k in enumerate(labels)}
        owners = [places[k] for k in which]
        features_BF = self._features(stack_prompts([*prompts.values()]), owners, [self.framed(ids) for ids in inputs])
        most, made, order = max(labels.values()), list[Tensor](), list[int]()
        for place, (weight_CF, bias_C) in heads.items():
            own = [row for row, owner in enumerate(owners) if owner == place]
            logits_BC = features_BF[own] @ weight_CF.float().T + bias_C.float()
            made.append(torch.nn.functional.pad(logits_BC, (0, most - len(bias_C)), value=-torch.inf))
            order += own
        return torch.cat(made)[torch.tensor(order, device=features_BF.device).argsort()]

    def at_first(self, given: dict[str, Any]) -> Tensor:
        if self._layer is not None:
            return features_before(self.base.model, self._layer[1], **given)
        states_BSD: Tensor = self.base.model.base_model(**given).last_hidden_state
        return states_BSD[:, 0]

    def _features(self, stack: Stack, which: Sequence[int], rows: Sequence[Ids]) -> Tensor:
        """What a head is given of framed rows behind their prompts, B x F float32."""
        laid = self.lay(stack, which, rows)
        if self._layer is not None:
            return features_before(self.base.model, self._layer[1], **laid.given).float()
        states_BSD, columns_S = self.run_encoder(laid).float(), torch.arange(laid.mask_BS.shape[1], device=self.base.device)
        own_BS = laid.mask_BS * (columns_S >= laid.start_B[:, None])
        return (states_BSD * own_BS[..., None]).sum(1) / own_BS.sum(1, keepdim=True)

    @cached_property
    def _layer(self) -> tuple[str, Any] | None:
        return answering_layer(self.base.model)

    @property
    def _any_token(self) -> int:
        return next(token for token in range(len(self.base.embedding.weight)) if token not in self.base.spelling.unusable)
