"""The config of a PEFT adapter that is a prompt or a prefix: written, read, and held against its matrix and its base."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.adapter import WEIGHTS
from softprompt.bases.files.locate import split_revision
from softprompt.errors import FingerprintMismatch, PromptFileError
from softprompt.exchange.card_file import commit_of, name_of, read_adapter_file
from softprompt.exchange.peft_head import MODULES
from softprompt.model.prefix import Layout
from softprompt.prompts.card import Card

KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Methods whose saved matrix is the prompt or the prefix: PEFT saves what an encoder or a projection makes of its inputs,
and neither of those."""

_OTHER_KINDS = {
    "LORA": "LoRA changes the base's weights; give it with --base-adapter",
    "MULTITASK_PROMPT_TUNING": "its tasks share one prompt, which is another one for each of them",
}

TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS")
"""Task types of PEFT whose prompts are ours."""
_ONLY = "only prompts and prefixes are imported"

_OTHER_TASKS = {
    "TOKEN_CLS": "it answers through a head of its own",
    "QUESTION_ANS": "it answers through a head of its own",
    "FEATURE_EXTRACTION": "it was tuned for hidden states, and not for text",
}

_KNOWN = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "num_virtual_tokens", "token_dim", "num_layers"),
    *("num_attention_heads", "num_transformer_submodules", "modules_to_save"),
    # How it was begun, trained and saved; it says nothing of what it is now.
    *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "peft_version"),
    *("inference_mode", "auto_mapping", "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers"),
    *("encoder_dropout", "prefix_projection", "init_weights"),
}

_COMMIT = re.compile("[0-9a-f]{40}")


def config_of(card: Card, base_source: str, revision: str | None) -> dict[str, Any]:
    """The config of a prompt that goes out.

    Raises:
        PromptFileError: it is a prefix for layers of several shapes, of which PEFT keeps one alone.
    """
    config = {
        "task_type": card.task_type,
        "base_model_name_or_path": base_source,
        "num_virtual_tokens": card.num_virtual_tokens,
        "num_transformer_submodules": 1,
        "inference_mode": True,
        **_shape_of(card),
    }
    revision = commit_of(card, base_source) or revision
    return config | ({"revision": revision} if revision else {})


def _shape_of(card: Card) -> dict[str, Any]:
    """The keys of a config that say what the matrix is."""
    if card.layers is None:
        unset = {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_name_or_path": None}
        return {"peft_type": "PROMPT_TUNING", "token_dim": card.token_dim, **unset}
    heads, width, value = card.layers[0]
    if width != value or len(set(card.layers)) > 1:
        raise PromptFileError(
            f"the prefix of task {card.task!r} is for layers of several shapes, and PEFT keeps prefixes of one; "
            "export it with --format softprompt"
        )
    return {
        "peft_type": "PREFIX_TUNING",
        "token_dim": heads * width,
        "num_layers": len(card.layers),
        "num_attention_heads": heads,
        "prefix_projection": False,
    }


def read_peft_config(folder: str | Path) -> dict[str, Any]:
    """The config of a PEFT adapter that is a prompt and nothing else.

    Raises:
        PromptFileError: not there, not JSON, of another method or task, or with modules beside the prompt.
    """
    config = read_adapter_file(folder)
    kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
    kind = kind.upper() if isinstance(kind, str) and isinstance(config, dict) else kind
    if not isinstance(config, dict) or kind not in KINDS:
        why = _OTHER_KINDS.get(kind, _ONLY) if isinstance(kind, str) else _ONLY
        raise PromptFileError(f"the adapter in {str(folder)!r} is {kind}, not PROMPT_TUNING; {why}")
    what = config.get("task_type")
    if what is not None and what not in TASKS:
        why = _OTHER_TASKS.get(what, "that is none of PEFT's") if isinstance(what, str) else "that is none of PEFT's"
        raise PromptFileError(
            f"the adapter in {str(folder)!r} is for {what}, not {', '.join(TASKS[:-1])} or {TASKS[-1]}: {why}; it "
            "cannot be imported"
        )
    modules = config.get("modules_to_save")
    if modules and not (what == "SEQ_CLS" and isinstance(modules, list) and {*map(str, modules)} <= {*MODULES}):
        named = ", ".join(dict.fromkeys(map(str, modules))) if isinstance(modules, list) else str(modules)
        raise PromptFileError(
            f"the adapter in {str(folder)!r} brings modules of its own beside the prompt (modules_to_save: {named[:80]}), "
            "and without them would answer otherwise; tune the prompt alone"
        )
    parts = config.get("num_transformer_submodules")
    if parts not in (None, 1) and not (parts == 2 and what == "SEQ_2_SEQ_LM"):
        raise PromptFileError(
            f"the adapter in {str(folder)!r} has prompts for {parts!r} submodules (num_transformer_submodules), and a "
            f"{what or 'CAUSAL_LM'} model is given one; save it for one"
        )
    return config


def check_shape(
    config: Mapping[str, Any], vectors_PD: torch.Tensor, base: FrozenBase, layout: Layout | None, folder: str | Path
) -> None:
    """Refuse numbers of a config that its tensor, or the base, contradicts. Raises `PromptFileError`.

    Args:
        layout: of prefixes on the base, where it is one.
    """
    length, width = vectors_PD.shape
    stated = [("num_virtual_tokens", "vectors", length)]
    stated += [("token_dim", "numbers in each vector", width)] if layout is None else []
    for name, is_, found in stated:
        if config.get(name) not in (None, found):
            raise PromptFileError(
                f"the adapter in {str(folder)!r} is damaged: its config says {name} {config[name]!r}, and {WEIGHTS} holds "
                f"{found} {is_}; save it again"
            )
    tuned_on = f"it was tuned on {config.get('base_model_name_or_path')!r}: give that base"
    if layout is not None:
        _check_layers(config, width, base, layout, f"the adapter in {str(folder)!r}", tuned_on)
        return
    if width != base.width:
        raise PromptFileError(f"the adapter in {str(folder)!r} is {width} wide and {base.name} is {base.width}; {tuned_on}")
    shape = base.model.config.get_text_config()
    for name, field in (("num_layers", "num_hidden_layers"), ("num_attention_heads", "num_attention_heads")):
        said, real = config.get(name), getattr(shape, field, None)
        if said is not None and isinstance(real, int) and said != real:
            raise PromptFileError(
                f"the adapter in {str(folder)!r} is of a base with {name} {said!r}, and {base.name} has {real}; {tuned_on}"
            )


def _check_layers(
    config: Mapping[str, Any], width: int, base: FrozenBase, layout: Layout, shown: str, tuned_on: str
) -> None:
    """Refuse a prefix for other layers than the base's. Raises `PromptFileError`."""
    heads, key, value = layout.layers[0]
    if key != value or len(set(layout.layers)) > 1:
        raise PromptFileError(
            f"{shown} is a prefix for layers of one shape, and {base.name} has {layout}, of which PEFT fills some; "
            "it cannot be imported"
        )
    here = {"num_layers": len(layout.layers), "num_attention_heads": heads, "token_dim": heads * key}
    for name, real in here.items():
        if config.get(name) not in (None, real):
            raise PromptFileError(
                f"{shown} is a prefix for other layers, with {name} {config[name]!r}, and {base.name} has {layout} "
                f"({name} {real}); {tuned_on}"
            )
    if width != layout.width:
        raise PromptFileError(
            f"{shown} is a prefix of {width} numbers a token, and {base.name} takes {layout.width} ({layout}); {tuned_on}"
        )


def provenance_of(
    config: Mapping[str, Any], base: FrozenBase, folder: str | Path, warn: Callable[[str], object]
) -> dict[str, Any]:
    """What a card says of an adapter of elsewhere, beside its base; `warn` hears of what nothing proves.

    Raises:
        FingerprintMismatch: it was tuned at another revision of the base.
    """
    shown = f"the adapter in {str(folder)!r}"
    known: dict[str, Any] = base.provenance()
    if (kind := config["peft_type"].upper()) == "P_TUNING":
        known["peft_type"] = kind
    named, asked = config.get("base_model_name_or_path"), config.get("revision")
    source, given = split_revision(base.source)
    if isinstance(named, str) and named and not _is_base(named, base):
        known["named_base"] = name_of(named)
        warn(
            f"{shown} names {named!r} as its base, and is taken for {base.source!r}: nothing in it proves that they are one"
        )
    if asked is not None and asked not in (given, base.revision):
        if given is not None or (base.revision is not None and _COMMIT.fullmatch(str(asked))):
            raise FingerprintMismatch(
                f"{shown} was tuned at revision {asked!r} of its base, and {source!r} is at {given or base.revision!r}; "
                f"give {source}@{asked}"
            )
        known["named_revision"] = asked
        warn(f"{shown} was tuned at revision {asked!r}, and nothing tells which one {base.source!r} is")
    unknown = [name for name, value in config.items() if name not in _KNOWN and value not in (None, False, "", [], {})]
    if unknown:
        warn(f"{shown} has keys in its config that are not known here, and not used: {', '.join(sorted(unknown))[:200]}")
    return known


def _is_base(named: str, base: FrozenBase) -> bool:
    if named == split_revision(base.source)[0]:
        return True
    folder = Path(os.path.expanduser(named))
    return base.path is not None and folder.exists() and folder.resolve() == base.path.resolve()
