"""caikit's folders of prompt tuning, and those that TGIS and vLLM's adapter for it were given: `decoder.pt` or `encoder.pt`,
each a pickled matrix, and caikit's `config.yml` beside them.

The form is caikit-nlp's `modules/text_generation/peft_prompt_tuning.py: save`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from softprompt.errors import PromptFileError
from softprompt.exchange.elsewhere.pickles import load_tensors, matrix_in
from softprompt.exchange.elsewhere.taken import Taken
from softprompt.tasks.wording.template import literal

CONFIG = "config.yml"
FILES = {"CAUSAL_LM": "decoder.pt", "SEQ_2_SEQ_LM": "encoder.pt"}
"""Where the vectors lie, by what they are for."""
_FIELD = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


def read_caikit(folder: Path) -> Taken:
    """The prompt of a folder.

    Raises:
        PromptFileError: it holds none, or what is no prompt for one place; its config is none, or its verbalizer reads other
            fields than the input.
    """
    config = _config(folder)
    there = {kind: folder / name for kind, name in FILES.items() if (folder / name).is_file()}
    if len(there) > 1:
        raise PromptFileError(
            f"{str(folder)!r} has vectors for an encoder and for a decoder ({', '.join(FILES.values())}), and a prompt "
            "stands before one of them; it cannot be imported"
        )
    if not there:
        raise PromptFileError(
            f"{str(folder)!r} has neither {' nor '.join(FILES.values())} beside its {CONFIG}; give the folder that "
            "caikit saved"
        )
    ((kind, file),) = there.items()
    said = str(config.get("task_type") or kind)
    if said != kind:
        raise PromptFileError(
            f"{str(folder)!r} says task_type {said} and has {file.name}, which is for {kind}; fetch it again"
        )
    vectors_PD = matrix_in(load_tensors(file, repr(str(file))), repr(str(file)))
    named = config.get("base_model_name")
    told = {key: str(config[key]) for key in ("tuning_type", "trained_torch_dtype") if config.get(key)}
    return Taken(
        tool="caikit" if config else "tgis", vectors_PD=vectors_PD, task_type=kind,
        base=named if isinstance(named, str) and named else None, fields=_form(config, folder), told=told,
    )  # fmt: skip


def _config(folder: Path) -> Mapping[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise PromptFileError(f"{str(file)!r} cannot be read ({type(error).__name__}); fetch the folder again") from None
    if not isinstance(config, dict):
        raise PromptFileError(
            f"{str(file)!r} is no caikit config but {type(config).__name__}; give the folder that caikit saved"
        )
    return config


def _form(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The input that a verbalizer words, and the target that caikit puts straight behind it."""
    verbalizer = config.get("verbalizer")
    if verbalizer is None:
        return {}
    fields = _FIELD.findall(str(verbalizer))
    if set(fields) != {"input"}:
        raise PromptFileError(
            f"the verbalizer of {str(folder)!r}, {str(verbalizer)[:80]!r}, reads "
            f"{', '.join(sorted({*fields})) or 'no field'} and not the input alone; give the template with --input"
        )
    pieces = _FIELD.split(str(verbalizer))
    return {
        "input": "".join(literal(piece) if at % 2 == 0 else "{text}" for at, piece in enumerate(pieces)),
        "target": "{label}",
    }
