"""Which GGUF files make a base: what a file's own words tell before anything is loaded. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompt.bases.architectures import refuse_unless_causal
from softprompt.bases.gguf.file import TYPES, GgufFile, read_gguf
from softprompt.errors import BaseModelError

ARCHITECTURES = (
    "gemma2", "gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "stablelm", "starcoder2",
)  # fmt: skip
"""The architectures that are read, as llama.cpp calls them. Others that transformers would read lose something on the way,
or nobody has looked whether they do."""

TOKENIZERS = ("gpt2", "llama")
"""The kinds of tokenizers that are read: byte-level BPE, and SentencePiece's BPE."""

_ENCODERS = ("bert", "t5encoder", "embedding")
_OTHER_KINDS = {
    "adapter": (
        "a LoRA adapter in GGUF's form",
        "give the base that it is for, and the adapter as PEFT saves it with --base-adapter or `base_adapter`",
    ),
    "mmproj": ("the part of a model that sees images or hears", "give the file of its language model"),
    "imatrix": ("an importance matrix and no model", "give the model"),
}


def check_gguf(file: Path, source: str) -> dict[str, Any]:
    """What a GGUF file of a causal model tells of its config: `model_type` in llama.cpp's words, and the dtype of its
    numbers; bfloat16 where they are quantised, which rounds them by less than that did.

    Args:
        file: the file, or the first part of a split one.
        source: what the user calls it.

    Raises:
        BaseModelError: it is damaged, or holds something else, or what cannot be read.
    """
    gguf = read_gguf(file)
    _check_model(gguf, source)
    _check_tokenizer(gguf, source)
    names = {TYPES[tensor.kind][0] for tensor in gguf.tensors}
    stored = "bfloat16"
    if names <= {"F32"}:
        stored = "float32"
    elif names <= {"F32", "F16"} and "F16" in names:
        stored = "float16"
    elif names <= {"F32", "BF16"} and "BF16" in names:
        stored = "bfloat16"
    return {"model_type": gguf.architecture, "dtype": stored}


def _check_model(gguf: GgufFile, source: str) -> None:
    kind, architecture = gguf.metadata.get("general.type"), gguf.architecture
    if kind in _OTHER_KINDS:
        what, instead = _OTHER_KINDS[kind]
        raise BaseModelError(f"{source!r} is {what}; {instead}")
    if not architecture:
        raise BaseModelError(f"{source!r} does not say which architecture it holds (general.architecture); fetch it again")
    if any(word in architecture for word in _ENCODERS) or gguf.of_model("attention.causal") is False:
        raise BaseModelError(
            f"{source!r} is an encoder ({architecture}), which sees what stands behind a token, and no causal language "
            "model. This version tunes causal models; use a decoder-only base (Llama, Qwen, Gemma, ..., or builtin/tiny)"
        )
    if architecture.startswith("t5"):
        refuse_unless_causal("SEQ_2_SEQ_LM", source)
    if architecture not in ARCHITECTURES:
        raise BaseModelError(
            f"{source!r} holds a model of the architecture {architecture!r}, which is not read from GGUF files; those of "
            f"{', '.join(ARCHITECTURES)} are; give the model as transformers saves it (safetensors)"
        )
    if not gguf.tensors:
        raise BaseModelError(f"{source!r} holds a vocabulary and no weights; give the file of the model itself")
    if gguf.tensor("token_embd.weight") is None:
        raise BaseModelError(f"{source!r} has no token embedding (token_embd.weight); fetch it again, whole")


def _check_tokenizer(gguf: GgufFile, source: str) -> None:
    kind, tokens = gguf.metadata.get("tokenizer.ggml.model"), gguf.metadata.get("tokenizer.ggml.tokens")
    if kind in (None, "none", "no_vocab") or not isinstance(tokens, list) or not tokens:
        raise BaseModelError(
            f"{source!r} has no tokenizer among its metadata; convert the model again with its vocabulary, or give it as "
            "transformers saves it"
        )
    if kind not in TOKENIZERS:
        raise BaseModelError(
            f"{source!r} has a tokenizer of the kind {kind!r}, which is not read from GGUF files; "
            f"{' and '.join(TOKENIZERS)} are; give the model as transformers saves it"
        )
    needed = "merges" if kind == "gpt2" else "scores"
    if not gguf.metadata.get(f"tokenizer.ggml.{needed}") and not gguf.metadata.get("tokenizer.ggml.merges"):
        raise BaseModelError(f"{source!r} has half a tokenizer: its {needed} are not there; convert the model again")
    embedding = gguf.tensor("token_embd.weight")
    rows = embedding.shape[0] if embedding else 0
    if rows < len(tokens):
        raise BaseModelError(
            f"{source!r} has {len(tokens)} tokens in its vocabulary and an embedding of {rows} rows, so that the last ones "
            "stand for nothing; convert the model again"
        )
