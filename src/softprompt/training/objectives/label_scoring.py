"""Label scoring: the right one among labels.

Shapes: B rows, C labels, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Tails
from softprompt.tasks.task import Examples
from softprompt.training.objectives.objective import Objective


@dataclass(frozen=True)
class LabelTarget:
    """The right one among labels."""

    labels: Labels
    choice: int


class LabelScoring(Objective[LabelTarget]):
    """Cross-entropy over the labels: minus the log-softmax, over labels, of their summed log-probabilities. It trains what
    is asked at prediction, and spends no capacity on the rest of the vocabulary. Each row counts alike."""

    def targets(self, examples: Examples, labels: Labels | None) -> list[LabelTarget]:
        assert labels is not None
        return [LabelTarget(labels, choice) for choice in examples.choices]

    def tails(self, target: LabelTarget) -> Tails:
        return label_contexts(target.labels)

    def size(self, target: LabelTarget) -> int:
        return 1

    def losses(self, targets: Sequence[LabelTarget], logits_NV: Tensor) -> Tensor:
        scores = score_labels(logits_NV, [target.labels for target in targets])
        scores_BC = pad_sequence(scores, batch_first=True, padding_value=-torch.inf)
        choice_B = torch.tensor([target.choice for target in targets], device=scores_BC.device)
        return F.cross_entropy(scores_BC, choice_B, reduction="none")
