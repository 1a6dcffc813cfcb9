"""Quantised bases: the linear layers of a frozen model in 8 or 4 bits. Embeddings, norms and the output head stay as they
are: prompts are spliced among the embeddings, a head is often tied to them, and its rows decide what is answered.

Shapes: N output features, M input features.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import mmap
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.options import QUANTIZATIONS, check_quantization_name
from softprompt.errors import BaseModelError


def check_quantization(name: str, device: torch.device, config: dict[str, Any], source: str) -> None:
    """Whether a base can be quantised so on a device.

    Raises:
        BaseModelError: the name is unknown, its package is not installed, it needs a GPU, or the base is quantised already.
    """
    check_quantization_name(name)
    if config.get("quantization_config"):
        raise BaseModelError(f"{source!r} is stored quantised already; leave out quantization")
    if name == "4bit" and device.type != "cuda":
        raise BaseModelError(f"quantization 4bit needs a CUDA GPU, and the device is {device}; use int8")
    if importlib.util.find_spec(package := QUANTIZATIONS[name]) is None:
        raise BaseModelError(
            f"quantization {name} needs the package {package}, which is not here; pip install 'softprompt[quant]'"
        )


def nf4_options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What makes transformers' loader put 4-bit weights (NF4 of QLoRA, Dettmers et al., 2023) on the device as it reads."""
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )
    return {"quantization_config": config, "device_map": {"": device}}


def quantize_int8(model: Any, dtype: torch.dtype | None = None) -> None:
    """Turn the linear layers of a model into 8-bit integers with a scale for each output feature, in place, one by one.

    Args:
        dtype: of all that stays; by default what each has. Converting here, not before, spares a whole copy.

    Raises:
        BaseModelError: the model has no linear layers.
    """
    from transformers.pytorch_utils import Conv1D  # what GPT-2 has for linear layers

    head = model.get_output_embeddings()
    plain = (torch.nn.Linear.forward, Conv1D.forward)  # a router's own, say, gives more than a product
    names = [name for name, module in model.named_modules() if type(module).forward in plain]
    names = [name for name in names if model.get_submodule(name) is not head]
    if not names:
        raise BaseModelError(f"{type(model).__name__} has no linear layers to make int8; leave out quantization")
    for name in names:
        layer = model.get_submodule(name)
        weight_NM = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
        model.set_submodule(name, Int8Linear(weight_NM.detach().to(dtype), layer.bias))
        forget_pages(layer.weight)
        del layer, weight_NM
        _return_memory()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = _copy(parameter.data, dtype or parameter.dtype)
    _return_memory()


def _return_memory() -> None:
    """Give the system what wide copies took: glibc keeps it for itself, as much as the whole model."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call, and no such habit
            ctypes.CDLL(None).malloc_trim(0)


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in memory of its own, or the file that it was mapped from would stay in memory for its sake; in parts, so
    that never both are there whole."""
    if tensor.dim() < 2:
        return tensor.to(dtype, copy=True)
    copy = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    for new, old in zip(torch.split(copy, 1 << 12), torch.split(tensor, 1 << 12), strict=True):
        new.copy_(old)
        forget_pages(old)
    return copy


def forget_pages(weight: Tensor) -> None:
    """Give the system the pages of a frozen weight that lies in a file which is mapped to memory: the map lasts for as long
    as any tensor of the file does, and with it all that was read of it. Who reads the weight again reads the file."""
    if sys.platform != "linux" or weight.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    start = -(-weight.data_ptr() // page) * page
    end = (weight.data_ptr() + weight.nbytes) // page * page
    with contextlib.suppress(OSError, AttributeError):
        if start < end and _is_file(start, end):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _is_file(start: int, end: int) -> bool:
    """Whether memory is a file's, mapped by itself; nothing else may be forgotten."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, _, _, _, inode, *_ = line.split(maxsplit=5)
        first, last = (int(number, 16) for number in ends.split("-"))
        if first <= start < last:
            return end <= last and inode != "0"
    return False


class Int8Linear(torch.nn.Module):
    """A frozen linear layer of 8-bit integers, as torchao rounds them, made wide again for each product and never kept.

    Not multiplied by torchao: autograd there keeps the wide copy of every weight until the way back, more memory than
    without quantisation; and it scales behind the product, where float16 overflows at activations of 10.
    """

    def __init__(self, weight_NM: Tensor, bias_N: Tensor | None) -> None:
        """Quantise the weight of a linear layer."""
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        super().__init__()
        layer = torch.nn.Linear(weight_NM.shape[1], weight_NM.shape[0], bias=False, device="meta")
        layer.weight = torch.nn.Parameter(weight_NM.contiguous(), requires_grad=False)
        quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))
        made: Any = layer.weight
        self.weight = torch.nn.Parameter(made.qdata, requires_grad=False)
        self.register_buffer("scale_N1", made.scale)
        self.bias = bias_N

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (... x M) to outputs (... x N)."""
        outputs: Tensor = _Product.apply(inputs, self.weight, self.scale_N1, self.bias)  # type: ignore[no-untyped-call]
        return outputs


class _Product(torch.autograd.Function):
    """Inputs times a frozen quantised weight. Neither inputs nor the wide weight are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight_NM: Tensor, scale_N1: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_NM, scale_N1)
        return torch.nn.functional.linear(inputs, _widen(weight_NM, scale_N1, inputs.dtype), bias_N)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        weight_NM, scale_N1 = ctx.saved_tensors
        return gradient @ _widen(weight_NM, scale_N1, gradient.dtype), None, None, None


class _Scratch(threading.local):
    """Memory of a thread for one wide weight. To allocate it for each product takes longer than to fill it, and leaves holes
    between what is kept."""

    def __init__(self) -> None:
        self.kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def take(self, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Room for so many numbers, good until the next call."""
        room = self.kept.get((device, dtype))
        if room is None or len(room) < count:
            with torch.inference_mode(False):  # what is made in that mode cannot be written to outside of it
                room = self.kept[device, dtype] = torch.empty(count, device=device, dtype=dtype)
        return room[:count]


_scratch = _Scratch()


def _widen(weight_NM: Tensor, scale_N1: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that 8-bit integers and their scales stand for, to be used before the next call."""
    wide_NM = _scratch.take(weight_NM.numel(), weight_NM.device, dtype).view_as(weight_NM)
    return wide_NM.copy_(weight_NM).mul_(scale_N1.to(dtype))
