"""What a model's name and config tell of its kind: the task type, the longest sequence, the window. No torch."""

from __future__ import annotations

import re
from typing import Any

from softprompt.errors import BaseModelError

# Families by a word of their name, for advice before anything is downloaded. Whole words: `distilled-` is not `led-`,
# and `bertin-gpt` is no BERT. What is not known by name is known by its config.
_FAMILIES = {
    "SEQ_2_SEQ_LM": r"(u?m|by|flan|long|code|switch|nt)?t5p?|m?bart|pegasus|(flan)?ul2|marian|opus-mt|prophetnet|led",
    "MASKED_LM": r"(distil|al|m|mobile|modern|bio|sci|fin|legal|tiny|camem)?bert|(distil|xlm)?(ro|de)berta|electra|mpnet",
}

# Kinds of encoders, by `model_type`: saved as `...Model`, without a head, they are no causal models that lost theirs.
_OTHERS = r"(euro|megatron|nomic|rem|squeeze)[-_]?bert|big_bird|data2vec-text|ernie|gte|jina_embeddings_v\d|longformer"
_ENCODERS = f"{_FAMILIES['MASKED_LM']}|{_OTHERS}|mra|roformer"

# Where a config keeps the longest sequence its positions allow, and how many tokens a layer attends to, by family.
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_ENCODER_KEYS, _DECODER_KEYS = ("max_encoder_position_embeddings",), ("max_decoder_position_embeddings",)
_WINDOW_KEYS = ("sliding_window", "attention_chunk_size", "window_size")

# Where the config of a model of several parts has that of its text, and what tells that it has others.
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "decoder")
_SENSES = {"vision_config", "audio_config", "speech_config", "image_token_id", "image_token_index", "audio_token_id"}

OTHER = "use a decoder-only base (Llama, Qwen, GPT-2, ..., or builtin/tiny)"
"""Advice where a model is none of these."""

TUNED = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "MASKED_LM", "SEQ_CLS")
"""Task types of the bases that are tuned."""
ENCODERS = ("MASKED_LM", "SEQ_CLS")
"""Those that have an encoder alone: they choose among labels, and write no text."""

KINDS = {
    "CAUSAL_LM": "a causal language model",
    "SEQ_2_SEQ_LM": "an encoder-decoder model",
    "MASKED_LM": "a masked language model",
    "SEQ_CLS": "an encoder that answers through a head",
    "TOKEN_CLS": "a token classifier, which needs a head of its own",
}
"""Of models, in words."""


class _OneKind(tuple[tuple[int, ...], ...]):
    """Token ids of labels that are of one kind, and equal to their like alone."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self), tuple(self)))


class MaskedLabels(_OneKind):
    """Labels that masked language models say: each token at a mask of its own."""


class HeadLabels(_OneKind):
    """Labels that a head chooses among: the one token of each is its number."""

    @classmethod
    def of(cls, count: int) -> HeadLabels:
        """So many labels."""
        return cls((number,) for number in range(count))


def task_type_of_name(name: str) -> str | None:
    """The task type that a model's name tells (`google/flan-t5-large` is SEQ_2_SEQ_LM), or None. A revision tells none."""
    stem = name.partition("@")[0].rsplit("/", 1)[-1].lower()
    for task_type, words in _FAMILIES.items():
        if re.search(rf"(?<![a-z0-9])({words})(?![a-z0-9])", stem):
            return task_type
    return None


def task_type_of_config(config: dict[str, Any]) -> str:
    """The task type that a model's config tells, as far as it tells one: CAUSAL_LM is also what may yet turn out, when it is
    run, to see what stands behind a token."""
    parts = [config, *(part for name in _TEXT_PARTS if isinstance(part := config.get(name), dict))]
    architecture = (config.get("architectures") or [""])[0]
    if any(part.get("is_encoder_decoder") for part in parts):
        return "SEQ_2_SEQ_LM"
    # One that is given images or sounds beside its text is named so too; its text goes through a decoder alone.
    if architecture.endswith("ForConditionalGeneration") and len(parts) == 1 and not _SENSES & config.keys():
        return "SEQ_2_SEQ_LM"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")) and not config.get("is_decoder"):
        return "MASKED_LM"
    if architecture.endswith("ForSequenceClassification") or is_headless(config):
        return "SEQ_CLS"
    if architecture.endswith("ForTokenClassification"):
        return "TOKEN_CLS"
    return "CAUSAL_LM"


def is_headless(config: dict[str, Any]) -> bool:
    """Whether a config is that of an encoder without any head, such as a sentence encoder."""
    architecture, kind = (config.get("architectures") or [""])[0], str(config.get("model_type") or "")
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel") and not config.get("is_decoder")
    return bare and re.search(rf"(?<![a-z0-9])({_ENCODERS})(?![a-z0-9])", kind) is not None


def task_type_of_model(model: Any) -> str:
    """The task type of a model that is loaded, by its class and config."""
    config = model.config.to_dict()
    return task_type_of_config(config | {"architectures": [type(model).__name__]})


def refuse_unless_tuned(task_type: str, name: str) -> None:
    """Refuse a model of a kind that is not tuned, naming what it is.

    Raises:
        BaseModelError: always, unless `task_type` is one of :data:`TUNED`.
    """
    if task_type not in TUNED:
        raise BaseModelError(
            f"{name!r} is {KINDS.get(task_type, 'no language model')}: its task type is {task_type}, and {listed_types()} "
            "are tuned; use a base with a language-modelling head, such as a decoder-only one (Llama, Qwen, GPT-2, ..., or "
            "builtin/tiny)"
        )


def listed_types() -> str:
    """The task types that are tuned, for messages."""
    return f"{', '.join(TUNED[:-1])} and {TUNED[-1]}"


def check_task_type(asked: str | None, is_: str, task: str, source: str) -> None:
    """Refuse a task file's task type that is not its base's; one that says none takes the base's.

    Raises:
        BaseModelError: with the right one.
    """
    if asked is not None and asked != is_:
        raise BaseModelError(
            f"task {task!r} asks for task_type {asked}, and its base {source!r} is {KINDS[is_]}: its task type is {is_}, "
            f"not {asked}; write that, or leave task_type out, which takes the base's"
        )


def context_of(config: Any) -> int | None:
    """Longest sequence in tokens that a text config's positions allow; None where it sets no limit."""
    return _first(config, (*_ENCODER_KEYS, *_CONTEXT_KEYS))


def answer_context_of(config: Any) -> int | None:
    """Longest answer in tokens that the positions of an encoder-decoder's decoder allow; None where they set no limit."""
    return _first(config, (*_DECODER_KEYS, *_CONTEXT_KEYS))


def _first(config: Any, keys: tuple[str, ...]) -> int | None:
    found = (getattr(config, key, None) for key in keys)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def window_of(config: Any) -> int | None:
    """Fewest tokens that some layer attends to; None where every layer sees all."""
    found = (getattr(config, key, None) for key in _WINDOW_KEYS)
    return min((value for value in found if isinstance(value, int)), default=None)
