"""Encoder-decoders behind soft prompts: the prompt stands in front of the encoder's input, answers go through the decoder.

An encoder sees all of its input at every token, so what it makes of a prompt is another thing for each row and nothing is
shared: each row is run with its whole prompt, once for all of its tails. What it makes of a row is kept while the row's
answer is generated, with the decoder's own keys and values.

Inputs are framed by what the tokenizer puts around a text, such as T5's `</s>` behind it; the prompt stands before all that.

Shapes: B rows, T tokens, S = spliced tokens, N results of all rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.model.embedding import single_tokens
from softprompt.model.lines import Ids, Tails, unfold_rows
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack, chunk_by_length, pad_rows, splice_rows, stack_prompts

_EMBED_BUDGET = 4096
"""Padded tokens of a chunk of inputs that are embedded."""


class Decoding:
    """Rows that are decoded a token at a time, all behind equally many tokens."""

    def __init__(self, base: FrozenBase, encoded: Encoded) -> None:
        self._base, self._encoded = base, encoded
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, ids_BT: Tensor) -> Tensor:
        """Run tokens of every row; logits (B x V) behind the last."""
        return _decode(self._base, self._encoded, ids_BT, self._cache)[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        places = torch.tensor(rows, device=self._base.device)
        self._cache.batch_select_indices(places)
        self._encoded = self._encoded.pick(places)


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of rows."""

    states_BSD: Tensor
    mask_BS: Tensor
    """1 where there is a token, virtual or real."""

    def pick(self, rows_B: Tensor) -> Encoded:
        """That of chosen rows."""
        return Encoded(self.states_BSD[rows_B], self.mask_BS[rows_B])


class EncoderDecoder:
    """An :class:`~softprompt.model.architecture.Architecture` that shares nothing between rows."""

    shares_prefix = False
    layout = None

    def __init__(self, base: FrozenBase) -> None:
        self.base = base

    def lays_lines(self, longest: int) -> bool:
        """Never: a row's virtual tokens see its input."""
        return False

    def compute_prefix(self, stack: Stack) -> Prefix:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} runs prompts with each input; ask logits_behind")

    def run_cached(self, ids_BT: Tensor, positions_BT: Tensor, cache: Any, mask_BS: Tensor) -> Tensor:
        """Never asked."""
        raise BaseModelError(f"{self.base.name} runs prompts with each input; ask logits_behind")

    @torch.no_grad()
    def embed(self, inputs: Sequence[Ids]) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; by the encoder, an input's frame among its tokens."""
        base = self.base
        nothing = stack_prompts([torch.zeros(0, base.width, dtype=base.dtype, device=base.device)])
        means_ND = torch.zeros(len(inputs), base.width)
        for group in chunk_by_length([len(ids) for ids in inputs], 1 if base.batch_invariant else _EMBED_BUDGET):
            encoded = self.encode(nothing, [0] * len(group), [inputs[i] for i in group])
            mask_BS1 = encoded.mask_BS[..., None]
            means_ND[group] = ((encoded.states_BSD.float() * mask_BS1).sum(1) / mask_BS1.sum(1)).cpu()
        return means_ND

    @cached_property
    def origin_D(self) -> Tensor:  # noqa: N802
        """See :class:`~softprompt.model.architecture.Architecture`."""
        return self.embed(single_tokens(self.base)).mean(0)

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> Tensor:
        """See :class:`~softprompt.model.architecture.Architecture`; what is behind an input is the decoder's beginning."""
        if self.base.batch_invariant and len(inputs) > 1:
            rows = zip(which, inputs, tails, strict=True)
            return torch.cat([self.logits_behind(stack, prefix, [k], [ids], [ends]) for k, ids, ends in rows])
        device, start = self.base.device, list(self.base.answer_start)
        answers = unfold_rows([start] * len(inputs), tails)
        encoded = self.encode(stack, which, inputs).pick(torch.tensor(answers.owner, device=device))
        logits_BTV = _decode(self.base, encoded, pad_rows(answers.rows, device).ids_BT)
        places = [(row, place) for row, kept in enumerate(answers.keep) for place in kept]
        row_N, place_N = torch.tensor(places, device=device).unbind(1)
        return logits_BTV[row_N, place_N]

    def encode(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids]) -> Encoded:
        """Run the encoder over inputs behind their prompts."""
        base = self.base
        before, behind = base.frame
        tokens = pad_rows([[*before, *ids, *behind] for ids in inputs], base.device)
        which_B = torch.tensor(list(which), device=base.device)
        embeds_BSD, spliced, _ = splice_rows(stack, which_B, base.embed(tokens.ids_BT), tokens.mask_BT)
        mask_BS = spliced.mask_BS.long()
        states_BSD = base.model.get_encoder()(inputs_embeds=embeds_BSD, attention_mask=mask_BS).last_hidden_state
        return Encoded(states_BSD, mask_BS)

    def begin(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids]) -> tuple[Decoding, Tensor]:
        """Rows that generate, and the logits (B x V) of their first tokens."""
        decoding = Decoding(self.base, self.encode(stack, which, inputs))
        start_T = torch.tensor(self.base.answer_start, device=self.base.device)
        return decoding, decoding.step(start_T.expand(len(inputs), -1))

    @cached_property
    def keeps_answers(self) -> bool:
        """Whether the decoder goes on behind its own keys and values as if it ran the answer anew; found on made-up rows."""
        base, size = self.base, len(self.base.embedding.weight)
        some = [token for token in range(3, size, max(1, size // 16)) if token not in base.spelling.unusable][:8]
        stack, rows = stack_prompts([base.embedding.weight[:0]]), [some[:3], some[3:4]]
        answers = [some[4:7], some[5:8]]
        with torch.no_grad():
            anew = self.logits_behind(stack, None, [0, 0], rows, [[answer] for answer in answers])[[3, 7]]
            try:
                decoding, _ = self.begin(stack, [0, 0], rows)
                for ids_B in torch.tensor(answers, device=base.device).T:
                    kept = decoding.step(ids_B[:, None])
            except Exception:  # a decoder that knows no such cache says so in a hundred ways
                return False
        tolerance = 1e-3 if base.dtype == torch.float32 else 6e-2
        return bool((kept - anew).float().norm() <= tolerance * anew.float().norm().clamp_min(1e-6))


def _decode(base: FrozenBase, encoded: Encoded, ids_BT: Tensor, cache: Any = None) -> Tensor:
    """Logits B x T x V behind each token of the decoder."""
    more: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
    logits: Tensor = base.model(
        encoder_outputs=BaseModelOutput(encoded.states_BSD),
        attention_mask=encoded.mask_BS,
        decoder_input_ids=ids_BT,
        use_cache=cache is not None,
        **more,
    ).logits
    return logits
