"""PEFT's folder: a config, a safetensors file with the matrix, and our card, which PEFT ignores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from softprompt.bases.adapter import CONFIG, WEIGHTS
from softprompt.bases.base import FrozenBase
from softprompt.errors import PromptFileError
from softprompt.exchange.readme import readme_of
from softprompt.files import write_whole
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from softprompt.tasks.form import text_rules

TENSOR = "prompt_embeddings"
CARD = "softprompt_card.json"
README = "README.md"


def save_peft(prompt: SoftPrompt, folder: str | Path, base_source: str, revision: str | None = None) -> Path:
    """Write a prompt as a PEFT adapter: `PeftModel.from_pretrained(model, folder)` loads it.

    The card goes along in a file of its own, which PEFT ignores and :func:`load_peft` reads; and what to feed it in one for
    people. Each file is written whole,
    the config last: a folder without it is no adapter.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

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


def load_peft(folder: str | Path, *, task: str, base: FrozenBase) -> SoftPrompt:
    """Read a PEFT prompt-tuning adapter as a prompt of `task` on `base`. Its template, labels and metric are those exported
    with it, else defaults.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        task: name of the task it becomes.
        base: the base it was tuned on; PEFT's format does not say which exact one, so the caller vouches for it.

    Raises:
        PromptFileError: not there, not prompt tuning, or not of this base's width.
        FingerprintMismatch: exported by softprompt for another base.
    """
    config = read_peft_config(folder)
    vectors_PD = _read_matrix(Path(folder) / WEIGHTS)
    length, width = vectors_PD.shape
    if width != base.width:
        raise PromptFileError(
            f"the adapter in {str(folder)!r} is {width} wide and {base.name} is {base.width}; "
            f"it was tuned on {config.get('base_model_name_or_path')!r}: give that base"
        )
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
        own = _read_card(exported)
        if own.fingerprint != base.fingerprint:
            SoftPrompt(vectors_PD, own).check_base(base)
        return SoftPrompt(vectors_PD, own.changed(here))
    return SoftPrompt(vectors_PD, Card.model_validate({**here, "recipe": {"imported": "peft"} | text_rules(base)}))


def read_peft_config(folder: str | Path) -> dict[str, Any]:
    """The config of a PEFT prompt-tuning adapter.

    Raises:
        PromptFileError: not there, not JSON, or another method than prompt tuning.
    """
    file = Path(folder) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptFileError(f"{str(folder)!r} is no PEFT folder: {CONFIG} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise PromptFileError(f"{str(file)!r} is not JSON ({error})") from None
    if not isinstance(config, dict) or config.get("peft_type") != "PROMPT_TUNING":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise PromptFileError(f"the adapter in {str(folder)!r} is {kind}, not PROMPT_TUNING; only prompt tuning is imported")
    if config.get("num_transformer_submodules") not in (None, 1):
        raise PromptFileError(
            f"the adapter in {str(folder)!r} has prompts for {config['num_transformer_submodules']} submodules "
            "(an encoder-decoder base); this version tunes causal models only"
        )
    return config


def _read_card(file: Path) -> Card:
    try:
        return Card.parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PromptFileError(f"{str(file)!r} cannot be read ({error}); export the prompt again") from None


def _read_matrix(file: Path) -> torch.Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file.read_bytes())
    except OSError as error:
        raise PromptFileError(
            f"{str(file)!r} cannot be read ({error.strerror}); save the adapter with safetensors"
        ) from None
    except SafetensorError as error:
        raise PromptFileError(f"{str(file)!r} is no safetensors file ({error})") from None
    if TENSOR not in tensors or tensors[TENSOR].ndim != 2 or not tensors[TENSOR].numel():
        found = ", ".join(f"{name} ({' x '.join(map(str, tensors[name].shape))})" for name in sorted(tensors))
        raise PromptFileError(f"{str(file)!r} holds no matrix {TENSOR!r}, but {found or 'nothing'}")
    return tensors[TENSOR].float()
