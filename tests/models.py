"""Tiny random causal models of several architectures, and a tokenizer for them. Offline; a few thousand weights each."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from softprompt.bases.base import FrozenBase
from softprompt.model.kinds.causal import Causal
from softprompt.model.prefix import Prefix, layout_for
from softprompt.model.splice import Stack
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt

VOCABULARY = 320
_SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 96, "initializer_range": 0.5,
}  # fmt: skip
_GQA = {**_SMALL, "num_key_value_heads": 2}

_SEQ_2_SEQ = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 96,
    "init_std": 0.3, "decoder_start_token_id": 1, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 0,
    "forced_eos_token_id": None,
}  # fmt: skip

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
    "gemma4": lambda: transformers.Gemma4TextConfig(
        **_GQA, head_dim=8, global_head_dim=16, sliding_window=6, layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0, hidden_size_per_layer_input=0,
    ),
}  # fmt: skip
UNEVEN = "gemma4"
"""Its layers differ in the width of a head; for tests of what holds keys and values."""
START = 1
"""The token that decoders of encoder-decoders begin with."""
SEQ_2_SEQ: dict[str, Any] = {
    "t5": lambda: transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=2.0,
        decoder_start_token_id=START, pad_token_id=START, eos_token_id=0, tie_word_embeddings=False,
    ),
    "mt5": lambda: transformers.MT5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, initializer_factor=2.0,
        decoder_start_token_id=START, pad_token_id=START, eos_token_id=0, tie_word_embeddings=False,
    ),
    "bart": lambda: transformers.BartConfig(**_SEQ_2_SEQ, scale_embedding=True),
    "pegasus": lambda: transformers.PegasusConfig(**_SEQ_2_SEQ, scale_embedding=True),
}  # fmt: skip
"""Encoder-decoders: BART scales in its table of embeddings, Pegasus outside of it."""
ARCHITECTURES = [name for name in CONFIGS if name != UNEVEN]
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


def weights_digest(base: FrozenBase) -> str:
    """Digest of every weight as it is now in memory; equal before and after training."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")


def make_base(
    architecture: str, *, seed: int = 0, attention: str = "eager", dtype: torch.dtype = torch.float32
) -> FrozenBase:
    """A random base; equal seeds give equal weights."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    config._attn_implementation = attention
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    return FrozenBase.wrap(model, tokenizer(), name=f"random/{architecture}")


def _encoder_tokenizer(kind: str) -> Any:
    """BERT's, whole words of few letters and no others, or RoBERTa's, any text; each frames texts and has a mask."""
    from tokenizers.processors import TemplateProcessing

    if kind == "bert":
        special: dict[str, Any] = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
        pieces = [*special, *WORDS, *"abcdefghilnorst", *(f"##{letter}" for letter in "abcdefghilnorst"), "?", ".", "="]
        backend = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        names = {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
    else:
        backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
        backend.add_special_tokens(["<s>", "<mask>"])
        special = {"<s>": backend.token_to_id("<s>"), "<end>": 0}
        names = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "<end>", "mask_token": "<mask>"}
    first, last = names["cls_token"], names["sep_token"]
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, special[first]), (last, special[last])]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


_ENCODER = {
    "vocab_size": VOCABULARY + 2, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": 0.3,
}  # fmt: skip
MASKED: dict[str, Any] = {
    "bert": lambda: transformers.BertConfig(**_ENCODER, max_position_embeddings=96, pad_token_id=0),
    "roberta": lambda: transformers.RobertaConfig(**_ENCODER, max_position_embeddings=98, pad_token_id=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=96,
        initializer_range=0.3,
    ),
    "electra": lambda: transformers.ElectraConfig(**_ENCODER, embedding_size=16, max_position_embeddings=96),
}  # fmt: skip
"""Masked language models: RoBERTa's positions begin behind that of padding, and ELECTRA's embeddings are narrower."""


@functools.cache
def make_masked(architecture: str, *, dtype: torch.dtype = torch.float32, batch_invariant: bool = False) -> FrozenBase:
    """A random masked language model."""
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(MASKED[architecture]()).to(dtype)
    made = _encoder_tokenizer("roberta" if architecture == "roberta" else "bert")
    return FrozenBase.wrap(model, made, name=f"random/{architecture}", batch_invariant=batch_invariant)


@functools.cache
def make_seq2seq(architecture: str, *, dtype: torch.dtype = torch.float32, batch_invariant: bool = False) -> FrozenBase:
    """A random encoder-decoder."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(SEQ_2_SEQ[architecture]()).to(dtype)
    return FrozenBase.wrap(model, tokenizer(), name=f"random/{architecture}", batch_invariant=batch_invariant)


def make_causal(architecture: str, *, attention: str = "eager") -> Causal:
    """A random base, ready to be run."""
    return Causal(make_base(architecture, attention=attention))


def logits_of_rows(
    causal: Causal, stack: Stack, prefix: Prefix | None, which: Sequence[int], rows: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Logits behind every token of rows, end to end: each row but its first token is one tail."""
    return causal.logits_behind(stack, prefix, which, [row[:1] for row in rows], [[row[1:]] for row in rows])


def save_base(folder: Path, architecture: str = "llama", *, seed: int = 0, shards: str = "5GB") -> Path:
    """A random base saved as transformers saves it, tokenizer and all."""
    base = make_base(architecture, seed=seed)
    base.model.save_pretrained(folder, max_shard_size=shards)
    base.tokenizer.save_pretrained(folder)
    return folder


ANSWERS = {
    "good": {"red": "yes", "green": "no", "blue": "yes", "apple": "no"},
    "bad": {"red": "no", "green": "yes", "blue": "no", "apple": "yes"},
}
"""What the steerable base has learnt: two opposite ways to answer, each behind a word of its own."""


@functools.cache
def steerable_base() -> FrozenBase:
    """A tiny Llama that answers `red =` by ` yes` behind `good` and by ` no` behind `bad`, trained in seconds.

    Without either word it cannot know which is meant, so whatever a prompt gains on such a task it gains by steering.
    """
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**_GQA, "initializer_range": 0.1}, tie_word_embeddings=True)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config)
    texts = [f" {way} {word} = {answer}" for way, pairs in ANSWERS.items() for word, answer in pairs.items()]
    rows = [[*row, tokenizer().eos_token_id] for row in tokenizer()(texts, add_special_tokens=False)["input_ids"]]
    width = max(map(len, rows))
    ids = torch.tensor([[1] * (width - len(row)) + row for row in rows])
    mask = (ids != 1).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -3:-1]  # the answer and the end
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, -2:])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return FrozenBase.wrap(model, tokenizer(), name="trained/steerable")


def some_prompt(base: FrozenBase, task: str, *, rows: int = 5, seed: int = 0, **fields: Any) -> SoftPrompt:
    """An untrained prompt for a base: tokens of its vocabulary, in a form of choice."""
    ids = torch.randint(2, VOCABULARY, (rows,), generator=torch.Generator().manual_seed(seed))
    card = Card(
        task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=rows, token_dim=base.width, **fields
    )
    return SoftPrompt(base.embed(ids).detach().float(), card)


def some_prefix(base: FrozenBase, task: str, *, rows: int = 5, seed: int = 0, **fields: Any) -> SoftPrompt:
    """Keys and values that no soft prompt has, in a form of choice."""
    layout = layout_for(base, Causal(base).layout)
    numbers = torch.randn(rows, layout.width, generator=torch.Generator().manual_seed(seed)) * 0.5
    card = Card(
        task=task, base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=rows, token_dim=layout.width,
        prompt_type="prefix", layers=layout.layers, **fields,
    )  # fmt: skip
    return SoftPrompt(numbers, card)


HEADED: dict[str, Any] = {
    **{name: (config, "AutoModel") for name, config in MASKED.items()},
    "mpnet": (lambda: transformers.MPNetConfig(**_ENCODER, max_position_embeddings=98, pad_token_id=1), "AutoModel"),
    "bert classifier": (MASKED["bert"], "AutoModelForSequenceClassification"),
    "roberta classifier": (MASKED["roberta"], "AutoModelForSequenceClassification"),
    "distilbert classifier": (MASKED["distilbert"], "AutoModelForSequenceClassification"),
    "electra classifier": (MASKED["electra"], "AutoModelForSequenceClassification"),
}
"""Encoders whose answers come from a head: without one of their own, and sequence classifiers, whose last layer it takes the
place of."""


@functools.cache
def make_headed(kind: str, *, dtype: torch.dtype = torch.float32, batch_invariant: bool = False) -> FrozenBase:
    """A random encoder that answers through a head."""
    torch.manual_seed(0)
    config, loader = HEADED[kind]
    made = config()
    made.num_labels = 3
    model = getattr(transformers, loader).from_config(made).to(dtype)
    words = _encoder_tokenizer("roberta" if kind.startswith(("roberta", "mpnet")) else "bert")
    return FrozenBase.wrap(model, words, name=f"random/{kind.replace(' ', '-')}", batch_invariant=batch_invariant)
