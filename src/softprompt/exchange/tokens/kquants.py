"""Rows in Q6_K, the type in which most quantised files keep their head, and which the gguf package reads and does not
write."""

from __future__ import annotations

from typing import Any

import numpy as np

from softprompt.bases.gguf.numbers import Numbers

_BLOCK, _GROUP = 256, 16


def pack_q6_k(rows: Numbers) -> np.ndarray[Any, Any]:
    """Rows of numbers in blocks of Q6_K: six bits a number, a scale of eight bits for each 16 and one float16 for each 256,
    as llama.cpp lays them. Rounded to the nearest level, without its search for better scales.

    Args:
        rows: their width is a multiple of 256.

    Returns:
        The bytes, a row for each.
    """
    groups = rows.reshape(-1, _BLOCK // _GROUP, _GROUP).astype(np.float32)
    steps = np.abs(groups).max(2) / 31
    largest = steps.max(1, keepdims=True) / 127
    whole = largest.astype(np.float16)
    whole = np.where(whole < largest, np.nextafter(whole, np.float16(np.inf)), whole)  # so that no scale passes 127
    wide = whole.astype(np.float32)
    scales = np.round(np.divide(steps, wide, out=np.zeros_like(steps), where=wide > 0))
    size = (scales * wide)[:, :, None]
    levels = np.round(np.divide(groups, size, out=np.zeros_like(groups), where=size > 0)).clip(-32, 31)
    quarters = (levels + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = quarters & 15, quarters >> 4
    nibbles = low[:, :, :2].reshape(-1, 2, 64) | (low[:, :, 2:].reshape(-1, 2, 64) << 4)
    pairs = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    blocks = np.concatenate(
        [nibbles.reshape(-1, 128), pairs.reshape(-1, 64), scales.astype(np.int8).view(np.uint8), whole.view(np.uint8)],
        axis=1,
    )
    return blocks.reshape(len(rows), -1)
