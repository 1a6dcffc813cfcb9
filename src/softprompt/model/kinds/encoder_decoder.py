"""Encoder-decoders behind soft prompts: the prompt stands in front of the encoder's input, answers go through the decoder.

The encoder is run once for all tails of a row. What it makes of a row is kept while the row's answer is generated, with the
decoder's own keys and values.

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
from softprompt.model.kinds.unshared import Laid, Unshared
from softprompt.model.lines import Ids, Tails, pick_logits, unfold_rows
from softprompt.model.prefix import cache_argument
from softprompt.model.splice import Stack, no_prompt, pad_rows, stack_prompts


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


class EncoderDecoder(Unshared):
    """Encoder-decoders."""

    def run_encoder(self, laid: Laid) -> Tensor:
        """See :class:`Unshared`."""
        states_BSD: Tensor = self.base.model.get_encoder()(**laid.given).last_hidden_state
        return states_BSD

    def run_rows(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]) -> Tensor:
        """See :class:`Unshared`; what is behind an input is the decoder's beginning."""
        device, start = self.base.device, list(self.base.answer_start)
        answers = unfold_rows([start] * len(inputs), tails)
        encoded = self.encode(stack, which, inputs).pick(torch.tensor(answers.owner, device=device))
        logits_BTV = _decode(self.base, encoded, pad_rows(answers.rows, device).ids_BT)
        return pick_logits(logits_BTV, [(row, place) for row, kept in enumerate(answers.keep) for place in kept])

    def encode(self, stack: Stack, which: Sequence[int], inputs: Sequence[Ids]) -> Encoded:
        """Run the encoder over inputs behind their prompts."""
        laid = self.lay(stack, which, [self.framed(ids) for ids in inputs])
        return Encoded(self.run_encoder(laid), laid.mask_BS)

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
        stack, rows = stack_prompts([no_prompt(base)]), [some[:3], some[3:4]]
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
    more: dict[str, Any] = {} if cache is None else {cache_argument(base.model): cache}
    logits: Tensor = base.model(
        encoder_outputs=BaseModelOutput(encoded.states_BSD),
        attention_mask=encoded.mask_BS,
        decoder_input_ids=ids_BT,
        use_cache=cache is not None,
        **more,
    ).logits
    return logits
