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
from softprompt.errors import FingerprintMismatch, PromptFileError
from softprompt.exchange.card_file import CARD, read_card_file
from softprompt.exchange.readme import readme_of
from softprompt.files import write_whole
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import Form, text_rules

TENSOR = "prompt_embeddings"
README = "README.md"

KINDS = ("PROMPT_TUNING", "P_TUNING")
"""Methods whose saved matrix is the prompt: PEFT saves what P-tuning's encoder makes of its inputs, and not the encoder."""

_OTHER_KINDS = {
    "LORA": "LoRA changes the base's weights; give it with --base-adapter",
    "PREFIX_TUNING": "its numbers are keys and values of each layer, and not vectors before an input",
    "MULTITASK_PROMPT_TUNING": "its tasks share one prompt, which is another one for each of them",
}

_OTHER_TASKS = {
    "SEQ_CLS": "it answers through a head of its own",
    "TOKEN_CLS": "it answers through a head of its own",
    "QUESTION_ANS": "it answers through a head of its own",
    "FEATURE_EXTRACTION": "it was tuned for hidden states, and not for text",
    "SEQ_2_SEQ_LM": "this version tunes causal models only",
}

_KNOWN = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "num_virtual_tokens", "token_dim", "num_layers"),
    *("num_attention_heads", "num_transformer_submodules", "modules_to_save"),
    # How it was begun, trained and saved; it says nothing of what it is now.
    *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "peft_version"),
    *("inference_mode", "auto_mapping", "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers"),
    *("encoder_dropout",),
}

_COMMIT = re.compile("[0-9a-f]{40}")


def save_peft(prompt: SoftPrompt, folder: str | Path, base_source: str, revision: str | None = None) -> Path:
    """Write a prompt as a PEFT adapter: `PeftModel.from_pretrained(model, folder)` loads it.

    The card goes along in a file of its own, which PEFT ignores and :func:`load_peft` reads; and what to feed it in one for
    people. Each file is written whole,
    the config last: a folder without it is no adapter.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    prompt.check_single("PEFT has no file for")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": prompt.card.task_type,
        "base_model_name_or_path": base_source,
        "num_virtual_tokens": prompt.card.num_virtual_tokens,
        "token_dim": prompt.card.token_dim,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None,
        "inference_mode": True,
    } | ({"revision": revision} if revision else {})
    write_whole(target / WEIGHTS, save({TENSOR: prompt.vectors_PD.contiguous()}, metadata={"format": "pt"}))
    write_whole(target / CARD, f"{prompt.card.canonical()}\n".encode())
    write_whole(target / README, readme_of(prompt.card, base_source).encode())
    write_whole(target / CONFIG, f"{json.dumps(config, indent=2)}\n".encode())
    return target


def load_peft(folder: str | Path, *, task: str, base: FrozenBase, warn: Callable[[str], object] | None = None) -> SoftPrompt:
    """Read an adapter of PEFT's prompt tuning or P-tuning as a prompt of `task` on `base`. Its template, labels and metric
    are those exported with it, else defaults.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        task: name of the task it becomes.
        base: the base it was tuned on; PEFT's format does not say which exact one, so the caller vouches for it.
        warn: hears of what nothing proves, such as a base by another name than the adapter's.

    Raises:
        PromptFileError: not there, of another method or task, not of this base's shape, or more than a prompt.
        FingerprintMismatch: exported by softprompt for another base, or tuned at another revision of it.
    """
    config = read_peft_config(folder)
    vectors_PD = _read_matrix(Path(folder) / WEIGHTS)
    _check_shape(config, vectors_PD, base, folder)
    length, width = vectors_PD.shape
    here = {
        "task": task,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "num_virtual_tokens": length,
        "token_dim": width,
        "dtype": "float32",
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
        why = _OTHER_KINDS.get(kind, "only prompt tuning is imported") if isinstance(kind, str) else "only that is imported"
        raise PromptFileError(f"the adapter in {str(folder)!r} is {kind}, not PROMPT_TUNING; {why}")
    what = config.get("task_type")
    if what not in (None, "CAUSAL_LM"):
        why = _OTHER_TASKS.get(what, "that is none of PEFT's") if isinstance(what, str) else "that is none of PEFT's"
        raise PromptFileError(f"the adapter in {str(folder)!r} is for {what}, not CAUSAL_LM: {why}; it cannot be imported")
    if modules := config.get("modules_to_save"):
        named = ", ".join(dict.fromkeys(map(str, modules))) if isinstance(modules, list) else str(modules)
        raise PromptFileError(
            f"the adapter in {str(folder)!r} brings modules of its own beside the prompt (modules_to_save: {named[:80]}), "
            "and without them would answer otherwise; tune the prompt alone"
        )
    if config.get("num_transformer_submodules") not in (None, 1):
        raise PromptFileError(
            f"the adapter in {str(folder)!r} has prompts for {config['num_transformer_submodules']} submodules "
            "(encoder and decoder); this version tunes causal models only"
        )
    return config


def _check_shape(config: Mapping[str, Any], vectors_PD: torch.Tensor, base: FrozenBase, folder: str | Path) -> None:
    """Refuse numbers of a config that its tensor, or the base, contradicts. Raises `PromptFileError`."""
    length, width = vectors_PD.shape
    for name, is_, found in (("num_virtual_tokens", "vectors", length), ("token_dim", "numbers in each vector", width)):
        if config.get(name) not in (None, found):
            raise PromptFileError(
                f"the adapter in {str(folder)!r} is damaged: its config says {name} {config[name]!r}, and {WEIGHTS} holds "
                f"{found} {is_}; save it again"
            )
    tuned_on = f"it was tuned on {config.get('base_model_name_or_path')!r}: give that base"
    if width != base.width:
        raise PromptFileError(f"the adapter in {str(folder)!r} is {width} wide and {base.name} is {base.width}; {tuned_on}")
    shape = base.model.config.get_text_config()
    for name, field in (("num_layers", "num_hidden_layers"), ("num_attention_heads", "num_attention_heads")):
        said, real = config.get(name), getattr(shape, field, None)
        if said is not None and isinstance(real, int) and said != real:
            raise PromptFileError(
                f"the adapter in {str(folder)!r} is of a base with {name} {said!r}, and {base.name} has {real}; {tuned_on}"
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
    if (kind := config["peft_type"].upper()) != "PROMPT_TUNING":
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
