"""Tiny random causal models of several architectures, and a tokenizer for them. Offline; a few thousand weights each."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from softprompt.base import FrozenBase

VOCABULARY = 320
_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 96, "initializer_range": 0.5,
}  # fmt: skip
_GQA = {**_SMALL, "num_key_value_heads": 2}

CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**_GQA, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.5
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SMALL),
    "qwen2": lambda: transformers.Qwen2Config(**_GQA),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, word_embed_proj_dim=32, init_std=0.5,
    ),
    "mistral": lambda: transformers.MistralConfig(**_GQA, sliding_window=6),
    "gemma2": lambda: transformers.Gemma2Config(**_GQA, head_dim=8, sliding_window=6, query_pre_attn_scalar=8),
}  # fmt: skip
ARCHITECTURES = list(CONFIGS)
WORDS = [
    "red",
    "green",
    "blue",
    "apple",
    "stone",
    "river",
    "person",
    "place",
    "thing",
    "number",
    "true",
    "false",
    "good",
    "bad",
    "yes",
    "no",
    "the",
    "a",
    "of",
    "is",
    "what",
]


@functools.cache
def tokenizer() -> Any:
    """A byte-level tokenizer that round-trips any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<end>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([f"{word} {other}" for word in WORDS for other in WORDS], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<pad>"
    )


def make_base(
    architecture: str, *, seed: int = 0, attention: str = "eager", dtype: torch.dtype = torch.float32
) -> FrozenBase:
    """A random base; equal seeds give equal weights."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    config._attn_implementation = attention
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    return FrozenBase.wrap(model, tokenizer(), name=f"random/{architecture}")
