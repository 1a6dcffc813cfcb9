"""The numbers of a GGUF file's tensors, out of their blocks."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from softprompt.bases.gguf.file import Tensor

Numbers = np.ndarray[Any, np.dtype[np.float32]]

_AT_ONCE = 1 << 23
"""Numbers that are taken out of their blocks at once: that takes several times their memory."""


def read_numbers(tensor: Tensor) -> Numbers:
    """All numbers of a tensor, in its shape, as float32."""
    whole = np.empty(tensor.shape, np.float32)
    rows = whole.reshape(-1, *tensor.shape[-1:])
    at = 0
    for part in read_rows(tensor):
        rows[at : at + len(part)] = part
        at += len(part)
    return whole


def read_rows(tensor: Tensor) -> Iterator[Numbers]:
    """The same, some rows at a time: each part is of two dimensions, rows and the last of the tensor's."""
    import gguf

    width, count = tensor.shape[-1], prod(tensor.shape[:-1])
    row_bytes = tensor.bytes // max(count, 1)
    step = max(1, _AT_ONCE // max(width, 1))
    for start in range(0, count, step):
        rows = min(step, count - start)
        raw = np.fromfile(tensor.file, np.uint8, rows * row_bytes, offset=tensor.start + start * row_bytes)
        yield gguf.dequantize(raw.reshape(rows, row_bytes), gguf.GGMLQuantizationType(tensor.kind))
