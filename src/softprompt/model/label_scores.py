"""Scoring labels: the summed log-probability of each label's tokens behind an input.

A label of one token is read off the logits behind the input itself. A longer label needs the logits behind its first tokens:
these contexts are tails of the input's row, and only those that no other context covers, so that labels that begin alike
share one.

Shapes: N logits kept of all rows, V vocabulary, M log-probabilities that are added up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.architectures import HeadLabels, MaskedLabels

Labels = tuple[tuple[int, ...], ...]
"""Token ids of each label of a task."""


@functools.lru_cache(maxsize=1024)
def label_contexts(labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Token sequences that must be run behind an input to score all labels, the fewest that do: the tails of its row. At
    masks they stand for their number alone, one for each length of a label; the input's own logits come with the first. A
    head has nothing to run: each label is an empty tail, and their number is that of the head's labels."""
    if isinstance(labels, HeadLabels):
        return ((),) * len(labels)
    if isinstance(labels, MaskedLabels):
        first, *others = sorted({len(label): label for label in labels}.items())
        return (first[1][:-1], *(label for _, label in others))
    contexts = {label[:-1] for label in labels}
    return tuple(sorted(c for c in contexts if not any(c != other and other[: len(c)] == c for other in contexts)))


@functools.lru_cache(maxsize=1024)
def _picks(labels: Labels) -> tuple[tuple[int, int, int], ...]:
    """Where each label's log-probabilities are: place among the logits of its row, token, number of the label."""
    contexts = label_contexts(labels)
    begins = list(itertools.accumulate(map(len, contexts), initial=1))
    if isinstance(labels, MaskedLabels):
        firsts = [0, *begins[1:]]  # by length: the first one's begin with the input's own logits
        lengths = [len(contexts[0]) + 1, *map(len, contexts[1:])]
        return tuple(
            (firsts[lengths.index(len(label))] + place, token, number)
            for number, label in enumerate(labels)
            for place, token in enumerate(label)
        )
    picks = [(0, label[0], number) for number, label in enumerate(labels)]
    for number, label in enumerate(labels):
        if len(label) > 1:
            tail = next(n for n, context in enumerate(contexts) if context[: len(label) - 1] == label[:-1])
            picks += [(begins[tail] + place, token, number) for place, token in enumerate(label[1:])]
    return tuple(picks)


def score_labels(logits_NV: Tensor, labels: Sequence[Labels]) -> list[Tensor]:
    """Summed log-probability of every label of each row, a vector (float32) for each.

    Args:
        logits_NV: of rows whose tails are the :func:`label_contexts` of their labels, all rows' end to end.
        labels: of each row, at least one.
    """
    picks_M3: list[tuple[int, int, int]] = []
    first = scored = 0
    for candidates in labels:
        picks_M3 += [(first + place, token, scored + number) for place, token, number in _picks(candidates)]
        first += 1 + sum(map(len, label_contexts(candidates)))
        scored += len(candidates)
    place_M, token_M, label_M = torch.tensor(picks_M3, device=logits_NV.device).unbind(1)
    logits_NV = logits_NV.float()
    picked_M = logits_NV[place_M, token_M] - logits_NV.logsumexp(-1)[place_M]
    total = torch.zeros(scored, device=logits_NV.device).index_add(0, label_M, picked_M)
    return list(torch.split(total, [len(candidates) for candidates in labels]))
