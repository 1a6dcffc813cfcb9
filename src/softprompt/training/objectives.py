"""What a prompt is trained for: losses of single examples, in float32.

Shapes: B rows, C labels, N kept positions of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from softprompt.model.label_scores import LabelPlan


def label_scoring(plan: LabelPlan, logits_NV: Tensor, choices: Sequence[int]) -> Tensor:
    """Cross-entropy over the labels of each example: minus the log-softmax, over labels, of their summed log-probabilities.

    It trains what is asked at prediction, and spends no capacity on the rest of the vocabulary.
    """
    scores_BC = pad_sequence(plan.scores(logits_NV), batch_first=True, padding_value=-torch.inf)
    return F.cross_entropy(scores_BC, torch.tensor(choices, device=scores_BC.device), reduction="none")


def language_modelling(logits_NV: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Summed negative log-probability of each example's target tokens, which the logits predict one by one, end to end."""
    device = logits_NV.device
    tokens_N = torch.tensor([token for target in targets for token in target], device=device)
    owner_N = torch.tensor([owner for owner, target in enumerate(targets) for _ in target], device=device)
    losses_N = F.cross_entropy(logits_NV.float(), tokens_N, reduction="none")
    return torch.zeros(len(targets), device=device).index_add(0, owner_N, losses_N)
