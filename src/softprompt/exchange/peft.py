"""PEFT's folder: a config, a safetensors file with the matrix, and our card, which PEFT ignores.

A folder of elsewhere is taken whole or refused: whatever else PEFT would load with the matrix (a head, embeddings, another
method) would be missing from what we answer.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.adapter import CONFIG, WEIGHTS
from softprompt.bases.base import FrozenBase
from softprompt.bases.locate import split_revision
from softprompt.errors import ConfigError, FingerprintMismatch, PromptFileError
from softprompt.exchange.card_file import CARD, read_card_file
from softprompt.exchange.readme import readme_of
from softprompt.files import write_whole
from softprompt.model.architecture import architecture_of
from softprompt.model.prefix import Layout, layout_for
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form, text_rules
from softprompt.tasks.template import Template

TENSOR = "prompt_embeddings"
README = "README.md"

KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Methods whose saved matrix is the prompt or the prefix: PEFT saves what an encoder or a projection makes of its inputs,
and neither of those."""

_OTHER_KINDS = {
    "LORA": "LoRA changes the base's weights; give it with --base-adapter",
    "MULTITASK_PROMPT_TUNING": "its tasks share one prompt, which is another one for each of them",
}

TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
"""Task types of PEFT whose prompts are ours."""
_ONLY = "only prompts and prefixes are imported"

_OTHER_TASKS = {
    "SEQ_CLS": "it answers through a head of its own",
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


def save_peft(prompt: SoftPrompt, folder: str | Path, base_source: str, revision: str | None = None) -> Path:
    """Write a prompt as a PEFT adapter: `PeftModel.from_pretrained(model, folder)` loads it.

    The card goes along in a file of its own, which PEFT ignores and :func:`load_peft` reads; and what to feed it in one for
    people. Each file is written whole,
    the config last: a folder without it is no adapter.

    Raises:
        ConfigError: the prompt is placed, which PEFT cannot say.
        PromptFileError: it is a prefix for layers of several shapes, of which PEFT keeps one alone.
        OSError: the folder cannot be written.
        PromptFileError: PEFT would not run it as it was tuned.
    """
    from safetensors.torch import save

    prompt.check_single("PEFT has no file for")
    kind = prompt.card.task_type
    if kind not in TASKS:
        raise PromptFileError(
            f"the prompt of {prompt.card.task!r} is for {kind}, which PEFT has no prompts for; use --format softprompt"
        )
    _check_scale(prompt.card.recipe, prompt.card.base)
    if Template(prompt.card.input).around_prompt is not None:
        raise ConfigError(
            f"the prompt of task {prompt.card.task!r} stands at {{soft_prompt}} in {prompt.card.input[:60]!r}, and PEFT "
            "puts prompts before everything; export it with --format softprompt, or train one without {soft_prompt}"
        )
    shape = _shape_of(prompt.card)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "task_type": prompt.card.task_type,
        "base_model_name_or_path": base_source,
        "num_virtual_tokens": prompt.card.num_virtual_tokens,
        "num_transformer_submodules": 1,
        "inference_mode": True,
        **shape,
    } | ({"revision": revision} if revision else {})
    write_whole(target / WEIGHTS, save({TENSOR: prompt.vectors_PD.contiguous()}, metadata={"format": "pt"}))
    write_whole(target / CARD, f"{prompt.card.canonical()}\n".encode())
    write_whole(target / README, readme_of(prompt.card, base_source).encode())
    write_whole(target / CONFIG, f"{json.dumps(config, indent=2)}\n".encode())
    return target


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


def load_peft(folder: str | Path, *, task: str, base: FrozenBase, warn: Callable[[str], object] | None = None) -> SoftPrompt:
    """Read an adapter of PEFT's prompt tuning, P-tuning or prefix tuning as a prompt of `task` on `base`. Its template,
    labels and metric are those exported with it, else defaults.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        task: name of the task it becomes.
        base: the base it was tuned on; PEFT's format does not say which exact one, so the caller vouches for it.
        warn: hears of what nothing proves, such as a base by another name than the adapter's.

    Raises:
        PromptFileError: not there, of another method or task, not of this base's shape, or more than a prompt.
        BaseModelError: a prefix, which the base does not take.
        FingerprintMismatch: exported by softprompt for another base, or tuned at another revision of it.
    """
    config = read_peft_config(folder)
    kind = config.get("task_type")
    if kind is not None and kind != base.task_type:
        raise PromptFileError(
            f"the adapter in {str(folder)!r} is for {kind}, and {base.name} is {base.task_type}; "
            "give the base that it is for"
        )
    _check_scale(text_rules(base), base.name)
    vectors_PD = _read_matrix(Path(folder) / WEIGHTS)
    if kind == "SEQ_2_SEQ_LM" and config.get("num_transformer_submodules") in (None, 2):
        vectors_PD = _of_the_encoder(config, vectors_PD)
    prefix = config["peft_type"].upper() == "PREFIX_TUNING"
    layout = layout_for(base, architecture_of(base).layout) if prefix else None
    _check_shape(config, vectors_PD, base, layout, folder)
    length, width = vectors_PD.shape
    here = {
        "prompt_type": "soft" if layout is None else "prefix",
        "layers": layout and layout.layers,
        "task": task,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "num_virtual_tokens": length,
        "token_dim": width,
        "dtype": "float32",
        "task_type": base.task_type,
    }
    exported = Path(folder) / CARD
    if exported.is_file():
        own = read_card_file(exported)
        if own.fingerprint not in base.fingerprints:
            SoftPrompt(vectors_PD, own).check_base(base)
        return SoftPrompt(vectors_PD, own.changed(here))
    told = _provenance(config, base, folder, warn or (lambda message: None))
    recipe = {"imported": "peft", **told, **text_rules(base)}
    return SoftPrompt(vectors_PD, Card.model_validate({**here, "recipe": recipe}))


def check_fits(prompt: SoftPrompt, base: FrozenBase) -> None:
    """Do nothing for a prompt that can answer on a base, as every trained one can.

    Raises:
        ContextError: beside its vectors and its longest answer no input fits the context.
        ConfigError: its template is wrong.
        DataError: two of its labels have the same tokens, or one has none.
    """
    form = Form.of_card(prompt.card)
    form.encode_inputs(base, [dict.fromkeys(form.input.fields, "a")], len(prompt.vectors_PD))


def read_peft_config(folder: str | Path) -> dict[str, Any]:
    """The config of a PEFT adapter that is a prompt and nothing else.

    Raises:
        PromptFileError: not there, not JSON, of another method or task, or with modules beside the prompt.
    """
    file = Path(folder) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptFileError(
            f"{str(folder)!r} is no PEFT folder: {CONFIG} cannot be read ({error.strerror}); give one that PEFT has saved"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{str(file)!r} is not JSON ({error}); save the adapter again") from None
    kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
    kind = kind.upper() if isinstance(kind, str) and isinstance(config, dict) else kind
    if not isinstance(config, dict) or kind not in KINDS:
        why = _OTHER_KINDS.get(kind, _ONLY) if isinstance(kind, str) else _ONLY
        raise PromptFileError(f"the adapter in {str(folder)!r} is {kind}, not PROMPT_TUNING; {why}")
    what = config.get("task_type")
    if what is not None and what not in TASKS:
        why = _OTHER_TASKS.get(what, "that is none of PEFT's") if isinstance(what, str) else "that is none of PEFT's"
        raise PromptFileError(
            f"the adapter in {str(folder)!r} is for {what}, not {' or '.join(TASKS)}: {why}; it cannot be imported"
        )
    if modules := config.get("modules_to_save"):
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


def _of_the_encoder(config: Mapping[str, Any], vectors_PD: torch.Tensor) -> torch.Tensor:
    """The vectors that stand before an encoder's input: PEFT makes as many again for the decoder, and never uses them."""
    length = config.get("num_virtual_tokens")
    return vectors_PD[:length].clone() if isinstance(length, int) and len(vectors_PD) == 2 * length else vectors_PD


def _check_scale(rules: Mapping[str, Any], base: str) -> None:
    """Refuse a base on which PEFT runs inputs otherwise than without a prompt. Raises `PromptFileError`."""
    if scale := rules.get("embedding_scale"):
        raise PromptFileError(
            f"{base} multiplies the embeddings of its inputs by {scale:g} outside of their table, which PEFT leaves out "
            "behind a prompt, so that answers there are others; it goes neither to PEFT nor comes from there"
        )


def _check_shape(
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


def _provenance(
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
        known["named_base"] = named
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


def _read_matrix(file: Path) -> torch.Tensor:
    """The one tensor of an adapter that is a prompt and nothing else, as float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file.read_bytes())
    except OSError as error:
        old = file.with_suffix(".bin")
        there = f"{old.name} is there, which may hold code and is not opened; " if old.is_file() else ""
        raise PromptFileError(
            f"{str(file)!r} cannot be read ({error.strerror}); {there}save the adapter with safetensors"
        ) from None
    except SafetensorError as error:
        raise PromptFileError(f"{str(file)!r} is no safetensors file ({error}); save the adapter again") from None
    if TENSOR not in tensors or tensors[TENSOR].ndim != 2 or not tensors[TENSOR].numel():
        raise PromptFileError(
            f"{str(file)!r} holds no matrix {TENSOR!r} but {_shown(tensors) or 'nothing at all'}; save the adapter again"
        )
    vectors_PD = tensors.pop(TENSOR)
    if tensors:
        raise PromptFileError(
            f"{str(file)!r} holds more than a prompt: {_shown(tensors)}; a head, or embeddings of a vocabulary that was "
            "resized, is part of how it answers, and cannot be imported: tune the prompt alone"
        )
    if not vectors_PD.is_floating_point():
        dtype = str(vectors_PD.dtype).removeprefix("torch.")
        raise PromptFileError(
            f"{str(file)!r} holds {dtype} numbers, and a prompt is made of floats; save it in its own dtype"
        )
    return vectors_PD.float()


def _shown(tensors: Mapping[str, torch.Tensor]) -> str:
    listed = [f"{name} ({' x '.join(map(str, tensors[name].shape))})" for name in sorted(tensors)]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
