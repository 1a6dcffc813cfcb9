"""Calibration of a prompt's probabilities by one number, its temperature (Guo et al. 2017, "On Calibration of Modern Neural
Networks"): what scores of labels are divided by before their softmax. Which label is likeliest does not change by it.
No torch.

Shapes: N rows, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from softprompt.tasks.answers.kinds import softmax

COLDEST, WARMEST = 0.05, 20.0
"""Between which temperatures the best is looked for."""
_STEPS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


def calibrated(scores: Sequence[float], temperature: float) -> list[float]:
    """Probabilities of labels by their scores, summed log-probabilities, at a temperature."""
    return softmax([score / temperature for score in scores])


def fit_temperature(chances: Sequence[Sequence[float]], right: Sequence[int]) -> float | None:
    """The temperature under which rows' right labels are likeliest; None where a row has no numbers.

    Right labels count as (N + 1) / (N + 2) certain and the others share the rest (Platt 1999, "Probabilistic Outputs for
    Support Vector Machines"): otherwise a prompt that is right in every row would be as sure as numbers can be.

    Args:
        chances: of each row the probability of each label, N x L.
        right: the place of each row's right label.
    """
    chances_NL = np.asarray(chances, dtype=np.float64)
    if not len(right) or not np.isfinite(chances_NL).all():
        return None
    logits_NL = np.log(np.maximum(chances_NL, 1e-300))
    rows, labels = logits_NL.shape
    targets_NL = np.full((rows, labels), 1 / ((rows + 2) * max(1, labels - 1)))
    targets_NL[np.arange(rows), list(right)] = (rows + 1) / (rows + 2)

    def loss(log_temperature: float) -> float:
        scaled_NL = logits_NL / math.exp(log_temperature)
        return float((np.logaddexp.reduce(scaled_NL, axis=1) - (targets_NL * scaled_NL).sum(1)).mean())

    # Convex in the inverse of the temperature, so that it has one valley: golden-section search goes down into it.
    low, high = math.log(COLDEST), math.log(WARMEST)
    for _ in range(_STEPS):
        width = _GOLDEN * (high - low)
        if loss(high - width) <= loss(low + width):
            high = low + width
        else:
            low = high - width
    return float(f"{math.exp((low + high) / 2):.4g}")
