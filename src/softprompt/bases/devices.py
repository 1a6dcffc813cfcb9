"""Dtypes and devices by name."""

from __future__ import annotations

from typing import Any

import torch

from softprompt.bases.options import DTYPE_NAMES, full_dtype
from softprompt.errors import BaseModelError

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}
"""The dtypes of a base, by name."""


def dtype_of(name: str) -> torch.dtype | None:
    """The torch dtype of a name (`float32`, `bf16`, ...), None for `auto`.

    Raises:
        BaseModelError: no such dtype.
    """
    return DTYPES.get(full_dtype(name))


def stored_dtype(config: dict[str, Any]) -> torch.dtype:
    """The dtype that a model's weights are stored in, as its config says."""
    return DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


def device_of(name: str | None) -> torch.device:
    """The device of a name; without one the first GPU, else the CPU.

    Raises:
        BaseModelError: no such device, or it is not here.
    """
    if name is None:
        # The first GPU; in a process that was started beside others, the one that its launcher gave it.
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BaseModelError(f"device {name!r} is unknown; use cpu, cuda:0, mps, ...") from None
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # each backend has its own way to say that it is not there
        what = "no GPU is visible" if device.type == "cuda" else "it is not to be had here"
        raise BaseModelError(f"device {name!r} was asked for and {what}; use cpu") from None
    return device


def slow_at_16_bits(device: torch.device) -> bool:
    """Whether float32 is the quicker dtype there."""
    # Measured on AVX-512 with bf16 instructions and no AMX: bf16 matrix products take 1.5 times as long as float32 ones.
    return device.type == "cpu" and not torch.cpu._is_amx_tile_supported()


def choose_kernels(device: torch.device) -> None:
    """Leave cuDNN's attention out of torch's kernels on a GPU: it plans anew for each shape that it meets, and the rows of
    prompts make new ones all the time. Its plans cost more than half a step, and save nothing where they are there."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
