"""The head: a linear layer over labels, trained and kept beside a soft prompt; and how its numbers lie behind the vectors.

A prompt with a head is one matrix wherever numbers of many prompts are kept or trained together (banks, checkpoints,
engines): the vectors, and behind them rows as wide as those that hold the weight, row by row, and then the bias.

Shapes: P virtual tokens, H rows of the head, C labels, F features, D width, B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """What heads of one base have in common."""

    features: int
    """F, how many numbers it is given of an input."""
    width: int
    """D, of the base's embeddings; of a prefix W, the numbers of its virtual tokens."""
    pooling: str
    """Where the features come from: `mean`, or the name of the layer of a sequence classifier in whose place it stands."""

    def on(self, width: int) -> Head:
        """That behind prompts of such a width."""
        return replace(self, width=width)

    def rows(self, labels: int) -> int:
        """H, the rows that it takes for so many labels."""
        return rows_of(labels, self.features, self.width)

    def unpack(self, rows_HD: Tensor, labels: int) -> tuple[Tensor, Tensor]:
        """Weight (C x F) and bias (C) of the last rows of a matrix, as views."""
        flat = rows_HD[-self.rows(labels) :].reshape(-1)
        end = labels * self.features
        return flat[:end].view(labels, self.features), flat[end : end + labels]


def rows_of(labels: int, features: int, width: int) -> int:
    """H, the rows of so wide a base that a head for so many labels takes."""
    return -(-labels * (features + 1) // width)


def pack(weight_CF: Tensor, bias_C: Tensor, width: int) -> Tensor:
    """The numbers of a head as rows, H x D: its weight label by label, then its bias, then zeros."""
    flat = torch.cat([weight_CF.flatten(), bias_C])
    rows = rows_of(len(weight_CF), weight_CF.shape[1], width)
    return F.pad(flat, (0, rows * width - len(flat))).view(rows, width)
