"""What a prompt is trained for: losses of single examples, in float32.

Shapes: B rows, L kept positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from softprompt.scoring import LabelPlan


def label_scoring(plan: LabelPlan, logits_BLV: Tensor, choices: Sequence[int]) -> Tensor:
    """Cross-entropy over the labels of each example: minus the log-softmax, over labels, of their summed log-probabilities.

    It trains what is asked at prediction, and spends no capacity on the rest of the vocabulary.
    """
    scores_BC = pad_sequence(plan.scores(logits_BLV), batch_first=True, padding_value=-torch.inf)
    return F.cross_entropy(scores_BC, torch.tensor(choices, device=scores_BC.device), reduction="none")


def language_modelling(logits_BLV: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Summed negative log-probability of each example's target tokens. Position `i` of the logits predicts target `i`."""
    longest = max(len(target) for target in targets)
    targets_BL = torch.tensor([[*t, *[-100] * (longest - len(t))] for t in targets], device=logits_BLV.device)
    loss_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), targets_BL, reduction="none", ignore_index=-100)
    return loss_BL.sum(1)
