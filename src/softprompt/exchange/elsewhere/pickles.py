"""Tensors out of pickles: of those alone, and of the plain kind."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from softprompt.errors import PromptFileError, reason_of


def load_tensors(file: Path | IO[bytes], shown: str) -> Any:
    """What `torch.save` wrote: tensors, and dicts and lists of them. Nothing else in a file is made, and no code in it runs.

    Args:
        file: its path, or the bytes of it.
        shown: what messages call it.

    Raises:
        PromptFileError: it cannot be read, is no such file, or holds more than tensors.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PromptFileError(f"{shown} cannot be read ({error.strerror or error}); mend that") from None
    except pickle.UnpicklingError as error:
        raise PromptFileError(
            f"{shown} is a pickle of more than tensors, which can name code to be run, or a damaged one, and is not opened "
            f"({reason_of(error)[:80]}); save the tensors alone, with safetensors at best"
        ) from None
    except Exception as error:  # a damaged archive raises whatever torch met in it
        raise PromptFileError(f"{shown} is damaged ({type(error).__name__}); fetch it again") from None


def matrix_in(value: Any, shown: str) -> torch.Tensor:
    """A value as a matrix of floats, in float32.

    Raises:
        PromptFileError: it is none, or its numbers lie otherwise than row by row (a sparse tensor can point anywhere).
    """
    if isinstance(value, torch.nn.Parameter):
        value = value.data
    if not isinstance(value, torch.Tensor):
        kind = f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, Mapping) else "")
        raise PromptFileError(f"{shown} holds {kind}, and a prompt is one matrix; give the file that the tool saved")
    if value.layout != torch.strided or value.ndim != 2 or not value.numel() or not value.is_floating_point():
        size = " x ".join(map(str, value.shape)) or "one number"
        raise PromptFileError(
            f"{shown} holds a tensor of {str(value.dtype)[6:]}, {size} ({str(value.layout)[6:]}), and a prompt is a matrix "
            "of floats; give the file that the tool saved"
        )
    return value.detach().float().contiguous()
