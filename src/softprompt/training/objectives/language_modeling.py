"""Language modelling: the answer's tokens, one by one.

Shapes: N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.model.label_scores import Labels
from softprompt.model.lines import Ids, Tails
from softprompt.tasks.task import Examples
from softprompt.training.objectives.objective import Objective


class LanguageModeling(Objective[list[int]]):
    """Summed negative log-probability of the answer's tokens. Each token counts alike."""

    def targets(self, examples: Examples, labels: Labels | None) -> list[list[int]]:
        return examples.targets

    def tails(self, target: Ids) -> Tails:
        return (target[:-1],)

    def size(self, target: Ids) -> int:
        return len(target)

    def losses(self, targets: Sequence[Ids], logits_NV: Tensor) -> Tensor:
        device = logits_NV.device
        tokens_N = torch.tensor([token for target in targets for token in target], device=device)
        owner_N = torch.tensor([owner for owner, target in enumerate(targets) for _ in target], device=device)
        losses_N = F.cross_entropy(logits_NV.float(), tokens_N, reduction="none")
        return torch.zeros(len(targets), device=device).index_add(0, owner_N, losses_N)
