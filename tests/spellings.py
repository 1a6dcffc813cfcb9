"""Small tokenizers of the kinds that there are, trained here: byte-level ones, and those that put a word mark before every
text, by whatever means. Offline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from softprompt.bases.base import FrozenBase
from tests.models import WORDS

CONTROLS = ["<unk>", "<s>", "</s>", "<|user|>", "<|end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEXTS = [f"{word} {other}: a, b = c.\n" for word in WORDS for other in WORDS]
TO_TEXT = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def _merging(split: Any = None) -> Tokenizer:
    """Merges of characters, and bytes for those that it does not know."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=[*CONTROLS, *BYTES], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.decoder = decoders.Sequence(TO_TEXT)
    backend.pre_tokenizer = split
    return _forget_bytes(backend)


def _forget_bytes(backend: Tokenizer) -> Tokenizer:
    """The same, whose bytes are words of the vocabulary and nothing more."""
    import json

    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(state))


def llama_2() -> Tokenizer:
    """The normaliser puts the mark there, twice before a text that begins with a space."""
    backend = _merging()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def metaspace_first() -> Tokenizer:
    """The mark stands before the first word alone, as in Llama 2's tokenizer since it was mended."""
    return _merging(pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


def metaspace_always() -> Tokenizer:
    """A mark before each piece between control tokens; a space that is there already serves."""
    return _merging(pre_tokenizers.Metaspace(prepend_scheme="always"))


def gemma() -> Tokenizer:
    """Word marks for spaces, and none that is not written."""
    backend = _merging()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(TO_TEXT[:3])
    return backend


def unigram() -> Tokenizer:
    """Words with likelihoods, control tokens and bytes among them, as in T5's and XLNet's."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=CONTROLS, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    return backend


def byte_level() -> Tokenizer:
    """As GPT-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def byte_level_prefixed() -> Tokenizer:
    """As RoBERTa's and Falcon's relatives: a space before every text."""
    backend = byte_level()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return backend


def words() -> Tokenizer:
    """Whole words, control tokens among them, and nothing for the others."""
    vocabulary = {text: number for number, text in enumerate([*CONTROLS, *WORDS, *":.,=<>|/"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    return backend


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    maker.__name__: maker
    for maker in (
        llama_2, metaspace_first, metaspace_always, gemma, unigram, byte_level, byte_level_prefixed, words,
    )
}  # fmt: skip
KINDS = [name for name in MAKERS if name != "words"]
"""Those that bring text of their letters back."""
MARKING = ["llama_2", "metaspace_first", "metaspace_always", "unigram", "byte_level_prefixed"]


@functools.cache
def tokenizer(kind: str) -> Any:
    """A tokenizer of a kind, as transformers has it."""
    backend = MAKERS[kind]()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|end|>"],
    )


@functools.cache
def base(kind: str) -> FrozenBase:
    """A tiny random Llama with such a tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.5, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    return FrozenBase.wrap(model, tokenizer(kind), name=f"random/{kind}")
