"""Scoring labels: the summed log-probability of each label's tokens behind an input.

A label of one token is read off the row of the input itself. A longer label needs the logits behind its first tokens; the
rows run are only those contexts that no other context covers, so labels that begin alike share a row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Labels = tuple[tuple[int, ...], ...]
"""Token ids of each label of a task."""


@functools.lru_cache(maxsize=1024)
def label_contexts(labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Token sequences that must be run behind an input to score all labels, the fewest that do."""
    contexts = {label[:-1] for label in labels}
    return tuple(sorted(c for c in contexts if not any(c != other and other[: len(c)] == c for other in contexts)))


@dataclass(frozen=True)
class LabelPlan:
    """Rows to run for a batch of inputs, and where each label's log-probabilities are found in their logits."""

    rows: list[list[int]]
    owner: list[int]
    """The input that each row belongs to."""
    keep: list[list[int]]
    """Positions of each row whose logits are needed."""
    picks_N4: list[tuple[int, int, int, int]]
    """(row, slot among kept positions, token, flat index of the score)."""
    sizes: list[int]
    """Number of labels of each input; flat scores are split by it."""

    def scores(self, logits_BLV: Tensor) -> list[Tensor]:
        """Summed log-probability of every label, a vector (float32) for each input."""
        row, slot, token, flat = torch.tensor(self.picks_N4, device=logits_BLV.device).unbind(1)
        logits_BLV = logits_BLV.float()
        picked_N = logits_BLV[row, slot, token] - logits_BLV.logsumexp(-1)[row, slot]
        total = torch.zeros(sum(self.sizes), device=logits_BLV.device).index_add(0, flat, picked_N)
        return list(torch.split(total, self.sizes))


def plan_labels(inputs: Sequence[Sequence[int]], labels: Sequence[Labels]) -> LabelPlan:
    """Plan the scoring of the labels of each input. Inputs have at least one token; labels at least one each."""
    rows: list[list[int]] = []
    owner: list[int] = []
    keep: list[list[int]] = []
    picks: list[tuple[int, int, int, int]] = []
    offset = 0
    for index, (ids, candidates) in enumerate(zip(inputs, labels, strict=True)):
        contexts = label_contexts(candidates)
        first_row = len(rows)
        for context in contexts:
            rows.append([*ids, *context])
            owner.append(index)
            keep.append(list(range(len(ids) - 1, len(ids) + len(context))))
        for number, label in enumerate(candidates):
            prefix = label[:-1]
            row = next(n for n, context in enumerate(contexts) if context[: len(prefix)] == prefix)
            picks += [(first_row + row, slot, token, offset + number) for slot, token in enumerate(label)]
        offset += len(candidates)
    return LabelPlan(rows, owner, keep, picks, [len(candidates) for candidates in labels])
