"""Scoring labels: the summed log-probability of each label's tokens behind an input.

A label of one token is read off the row of the input itself. A longer label needs the logits behind its first tokens: these
contexts are tails of the input's row, and only those that no other context covers, so labels that begin alike share one.
"""

from __future__ import annotations

import functools
import itertools
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
    """The rows of a batch of inputs, and where each label's log-probabilities are found in their logits."""

    rows: list[list[int]]
    """Each input, and the contexts of its labels as tails."""
    tails: list[list[int]]
    """Lengths of each row's tails."""
    keep: list[list[int]]
    """Positions of each row whose logits are needed."""
    picks_M3: list[tuple[int, int, int]]
    """(kept position, all rows' end to end; token; number of the label, all inputs' end to end)."""
    sizes: list[int]
    """Number of labels of each input; scores are split by it."""

    def scores(self, logits_NV: Tensor) -> list[Tensor]:
        """Summed log-probability of every label, a vector (float32) for each input."""
        place_M, token_M, label_M = torch.tensor(self.picks_M3, device=logits_NV.device).unbind(1)
        logits_NV = logits_NV.float()
        picked_M = logits_NV[place_M, token_M] - logits_NV.logsumexp(-1)[place_M]
        total = torch.zeros(sum(self.sizes), device=logits_NV.device).index_add(0, label_M, picked_M)
        return list(torch.split(total, self.sizes))


def plan_labels(inputs: Sequence[Sequence[int]], labels: Sequence[Labels]) -> LabelPlan:
    """Plan the scoring of the labels of each input. Inputs have at least one token; labels at least one each."""
    plan = LabelPlan([], [], [], [], [len(candidates) for candidates in labels])
    kept = scored = 0
    for ids, candidates in zip(inputs, labels, strict=True):
        contexts = label_contexts(candidates)
        plan.rows.append([*ids, *itertools.chain(*contexts)])
        plan.tails.append([len(context) for context in contexts])
        plan.keep.append(list(range(len(ids) - 1, len(plan.rows[-1]))))
        for number, label in enumerate(candidates, scored):
            plan.picks_M3.append((kept, label[0], number))
            if len(label) > 1:
                tail = next(n for n, context in enumerate(contexts) if context[: len(label) - 1] == label[:-1])
                behind = kept + 1 + sum(map(len, contexts[:tail]))
                plan.picks_M3.extend((behind + place, token, number) for place, token in enumerate(label[1:]))
        kept += len(plan.keep[-1])
        scored += len(candidates)
    return plan
