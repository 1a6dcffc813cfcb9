"""A second architecture, which only the tests have: encoder-decoders, with the prompt in front of the encoder's input.

Here everything is run again for each token. It is all that training, evaluation and engines need of another kind of model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from softprompt.bases.base import FrozenBase
from softprompt.model.embedding import single_tokens
from softprompt.model.lines import Ids, Tails, unfold_rows
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack, pad_rows, splice_rows
from tests.models import VOCABULARY, tokenizer

START = 1
"""The token that the decoder begins with."""


def make_t5() -> FrozenBase:
    """A tiny random T5. Bases that are loaded or wrapped are refused unless they are causal, so it is put together here."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=2.0,
        decoder_start_token_id=START, pad_token_id=START, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval().requires_grad_(False)
    return FrozenBase(model=model, tokenizer=tokenizer(), source="random/t5", fingerprint="0" * 32)


class EncoderDecoder:
    """An :class:`~softprompt.model.architecture.Architecture` without anything that is shared between rows."""

    shares_prefix = False
    layout = None

    def __init__(self, base: FrozenBase) -> None:
        self.base = base

    def lays_lines(self, longest: int) -> bool:
        return False

    def compute_prefix(self, stack: Stack) -> Prefix:
        raise AssertionError("prompts are not shared")

    def run_cached(
        self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any, mask_BS: torch.Tensor
    ) -> torch.Tensor:
        raise AssertionError("nothing is kept")

    @torch.no_grad()
    def embed(self, inputs: Sequence[Ids]) -> torch.Tensor:
        encoder = self.base.model.get_encoder()
        return torch.stack([encoder(torch.tensor([list(ids)])).last_hidden_state[0].mean(0) for ids in inputs])

    @cached_property
    def origin_D(self) -> torch.Tensor:  # noqa: N802
        return self.embed(single_tokens(self.base)).mean(0)

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> torch.Tensor:
        tokens = pad_rows(inputs)
        embeds_BTD = self.base.embed(tokens.ids_BT)
        embeds_BSD, spliced, _ = splice_rows(stack, torch.tensor(list(which)), embeds_BTD, tokens.mask_BT)
        mask_BS = spliced.mask_BS.long()
        states_BSD = self.base.model.get_encoder()(inputs_embeds=embeds_BSD, attention_mask=mask_BS).last_hidden_state
        answers = unfold_rows([[START]] * len(inputs), tails)
        decoded = pad_rows(answers.rows)
        logits_BTV = self.base.model(
            encoder_outputs=BaseModelOutput(states_BSD[answers.owner]),
            attention_mask=mask_BS[answers.owner],
            decoder_input_ids=decoded.ids_BT,
            decoder_attention_mask=decoded.mask_BT.long(),
            use_cache=False,
        ).logits
        return torch.cat([logits_BTV[row, kept.start : kept.stop] for row, kept in enumerate(answers.keep)])
