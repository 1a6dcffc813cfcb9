"""The tokenizer of a GGUF file: as transformers builds it from the metadata, mended where that spells texts otherwise than
the tokenizer that the model was trained with."""

from __future__ import annotations

import json
import logging
from typing import Any

from softprompt.bases.gguf.file import GgufFile
from softprompt.errors import BaseModelError

_log = logging.getLogger(__name__)

_NORMAL, _CONTROL, _ADDED = 1, 3, 4
"""Kinds of tokens, by llama.cpp's numbers: words, what no text means, and what a text means as a whole."""

_BY_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""What splits texts as GPT-2 does, and each digit from what stands beside it."""
_AS_GPT2 = ("gpt-2", "gpt2", "phi-2")
_WHOLE_WORDS_FIRST = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken",
)  # fmt: skip
"""What takes a word that the vocabulary has whole, whatever the merges make of it; and begins texts, unless the file says
no."""
_COMPOSES = ("qwen2", "qwen35", "deepseek-r1-qwen")
"""What makes one character of a letter and its accent (NFC)."""


def tokenizer_of(gguf: GgufFile, source: str) -> Any:
    """The fast tokenizer of a GGUF file, with its special tokens and chat template.

    Raises:
        BaseModelError: the installed transformers is too old for it.
        ValueError, KeyError: what its metadata say makes no tokenizer.
    """
    import transformers

    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer
    except ImportError:  # up to 5.17
        raise BaseModelError(
            f"{source!r} is a GGUF file, whose tokenizer transformers reads from 5.18 on; {transformers.__version__} is "
            "installed: pip install -U transformers, or give the model as transformers saves it"
        ) from None
    told = {
        name: gguf.metadata[f"tokenizer.{key}"]
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{key}" in gguf.metadata
    }
    backend, _ = convert_gguf_tokenizer(gguf.architecture, told)
    backend = _without_strangers(backend, told)
    if told["tokenizer_type"] == "gpt2":
        backend = _with_all_whole(backend, told)
        tell_splits(gguf, source)
        _mend_byte_level(backend, _splits(gguf))
    elif told.get("add_prefix_space") is False:
        _mend_prefix(backend)
    settings: dict[str, Any] = {f"add_{end}_token": _adds(gguf, end) for end in ("bos", "eos")}
    for role, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        number = gguf.metadata.get(f"tokenizer.ggml.{key}_token_id")
        settings[f"{role}_token"] = told["tokens"][number] if number is not None else None
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=gguf.metadata.get("tokenizer.chat_template"), **settings
    )


def _without_strangers(backend: Any, told: dict[str, Any]) -> Any:
    """The tokenizer without the special tokens of others that transformers gives it: those that the vocabulary has not, or
    has as words like any other."""
    from tokenizers import Tokenizer

    kinds = told.get("token_type") or [_CONTROL] * len(told["tokens"])
    state = json.loads(backend.to_str())
    own = [token for token in state["added_tokens"] if token["id"] < len(kinds) and kinds[token["id"]] != _NORMAL]
    return backend if own == state["added_tokens"] else Tokenizer.from_str(json.dumps(state | {"added_tokens": own}))


def _with_all_whole(backend: Any, told: dict[str, Any]) -> Any:
    """The byte-level tokenizer with those special and added tokens too whose texts have other signs than bytes are written
    in, such as `<｜User｜>`: transformers spells them as bytes in the vocabulary, and leaves them out of what is whole."""
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    words: dict[str, int] = state["model"]["vocab"]
    kinds = enumerate(zip(told["tokens"], told.get("token_type") or (), strict=False))
    lacking = {
        number: (text, kind == _CONTROL)
        for number, (text, kind) in kinds
        if kind in (_CONTROL, _ADDED) and text not in words
    }
    if not lacking:
        return backend
    state["model"]["vocab"] = {lacking[number][0] if number in lacking else word: number for word, number in words.items()}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    state["added_tokens"] += [
        {"id": number, "content": text, **plain, "special": special} for number, (text, special) in lacking.items()
    ]
    state["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(state))


def begin_token(gguf: GgufFile) -> str | None:
    """What the tokenizer of a GGUF file begins texts with, by its metadata; None for nothing. No torch."""
    number = gguf.metadata.get("tokenizer.ggml.bos_token_id")
    return str(gguf.metadata["tokenizer.ggml.tokens"][number]) if number is not None and _adds(gguf, "bos") else None


def _adds(gguf: GgufFile, end: str) -> bool:
    """Whether the tokenizer puts a token before (bos) or behind (eos) each text; by llama.cpp's rule where nothing is
    said."""
    said = gguf.metadata.get(f"tokenizer.ggml.add_{end}_token")
    if said is not None:
        return bool(said)
    sentences = gguf.metadata["tokenizer.ggml.model"] == "llama"
    return end == "bos" and (sentences or gguf.metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS_FIRST)


def tell_splits(gguf: GgufFile, source: str) -> None:
    """Say where a byte-level tokenizer splits texts into words in a way that is not known, which none but the file says."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    way = _splits(gguf)
    if gguf.metadata["tokenizer.ggml.model"] == "gpt2" and way not in (*_BY_DIGITS, *_AS_GPT2, *GGUF_PRE_TOKENIZER_SPLITS):
        _log.warning(
            "%s splits texts into words in a way that is not known here (%s); they are split as GPT-2 does, which may spell "
            "some of them otherwise than the model learnt", source, way or "it says none",
        )  # fmt: skip


def _splits(gguf: GgufFile) -> str:
    return str(gguf.metadata.get("tokenizer.ggml.pre") or "")


def _mend_byte_level(backend: Any, way: str) -> None:
    from tokenizers import normalizers, pre_tokenizers

    if way in _BY_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if way in _WHOLE_WORDS_FIRST:
        backend.model.ignore_merges = True
    if way in _COMPOSES:
        backend.normalizer = normalizers.NFC()


def _mend_prefix(backend: Any) -> None:
    """No space before a text, where the file says so."""
    from tokenizers import decoders, pre_tokenizers

    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
