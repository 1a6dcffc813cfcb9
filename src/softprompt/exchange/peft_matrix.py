"""The matrix of a PEFT adapter: the one tensor of its safetensors file, but for that of a head; our centroid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from softprompt.errors import PromptFileError
from softprompt.exchange.elsewhere.pickles import load_tensors

if TYPE_CHECKING:
    from softprompt.prompts.card import Card

TENSOR = "prompt_embeddings"
MARK = "softprompt_card"
"""Where the metadata of an exported matrix keeps the digest of its card. PEFT leaves it out of what it saves."""


def read_matrix(file: Path, *, beside: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The matrix of an adapter, as float32, and the tensors beside it: none, but where they are asked for."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(file.read_bytes())
    except OSError as error:
        old = file.with_suffix(".bin")
        if file.exists() or not old.is_file():
            raise PromptFileError(
                f"{str(file)!r} cannot be read ({error.strerror}); save the adapter with safetensors"
            ) from None
        tensors = _unpickled(old)
    except SafetensorError as error:
        raise PromptFileError(f"{str(file)!r} is no safetensors file ({error}); save the adapter again") from None
    if TENSOR not in tensors or tensors[TENSOR].ndim != 2 or not tensors[TENSOR].numel():
        raise PromptFileError(
            f"{str(file)!r} holds no matrix {TENSOR!r} but {_shown(tensors) or 'nothing at all'}; save the adapter again"
        )
    vectors_PD = tensors.pop(TENSOR)
    if vectors_PD.layout != torch.strided:  # of a pickle: a sparse tensor can point anywhere
        raise PromptFileError(
            f"{str(file)!r} holds a sparse tensor, and a prompt is none; save the adapter with safetensors"
        )
    if tensors and not beside:
        raise PromptFileError(
            f"{str(file)!r} holds more than a prompt: {_shown(tensors)}; a head, or embeddings of a vocabulary that was "
            "resized, is part of how it answers, and cannot be imported: tune the prompt alone"
        )
    if not vectors_PD.is_floating_point():
        dtype = str(vectors_PD.dtype).removeprefix("torch.")
        raise PromptFileError(
            f"{str(file)!r} holds {dtype} numbers, and a prompt is made of floats; save it in its own dtype"
        )
    return vectors_PD.float(), tensors


def mark_of(card: Card) -> str:
    """What marks a matrix as that of a card."""
    return hashlib.sha256(card.canonical().encode()).hexdigest()


def read_mark(file: Path) -> str | None:
    """The mark of a matrix that was exported; None of one that another tool has saved."""
    from safetensors import safe_open

    if not file.exists():  # a pickle
        return None
    with safe_open(file, "pt") as opened:
        return (opened.metadata() or {}).get(MARK)


def read_centroid(file: Path) -> torch.Tensor | None:
    """The centroid beside a matrix, as float32; None where there is none.

    Raises:
        PromptFileError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not file.exists():
        return None
    try:
        return load(file.read_bytes())["centroid"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise PromptFileError(f"{str(file)!r} cannot be read ({error}); export the prompt again") from None


def _unpickled(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter as PEFT kept it before safetensors, and vLLM and TGIS took it."""
    found = load_tensors(file, repr(str(file)))
    if not isinstance(found, Mapping) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise PromptFileError(f"{str(file)!r} holds no tensors by name but {type(found).__name__}; save the adapter again")
    return {str(name): one for name, one in found.items()}


def _shown(tensors: Mapping[str, torch.Tensor]) -> str:
    listed = [f"{name} ({' x '.join(map(str, tensors[name].shape))})" for name in sorted(tensors)]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
