"""What a prompt is trained for: an objective says what is run behind each input, and what loss its logits make.

To add one, write its class here, name it in :data:`OBJECTIVES`, and let the config know its name.

Shapes: B rows, C labels, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Ids, Tails
from softprompt.tasks.task import Examples

T = TypeVar("T")


class Objective(Protocol[T]):
    """How rows with targets of one kind become losses."""

    def targets(self, examples: Examples, labels: Labels | None) -> list[T]:
        """What each row of a split is trained for; `labels` are the tokens of all labels of its task."""

    def tails(self, target: T) -> Tails:
        """What must be run behind the input, each apart from the others; at least one, which may be empty."""

    def size(self, target: T) -> int:
        """What a row counts in the mean of its prompt's losses."""

    def losses(self, targets: Sequence[T], logits_NV: Tensor) -> Tensor:
        """The loss of each row (B, float32) by its logits: those behind its input and behind each token of its tails."""


@dataclass(frozen=True)
class LabelTarget:
    """The right one among labels."""

    labels: Labels
    choice: int


class LabelScoring:
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


class LanguageModeling:
    """Summed negative log-probability of the answer's tokens, one by one. Each token counts alike."""

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


LABEL_SCORING = LabelScoring()
LANGUAGE_MODELING = LanguageModeling()
OBJECTIVES: dict[str, Objective[Any]] = {"label_scoring": LABEL_SCORING, "language_modelling": LANGUAGE_MODELING}
"""By the names that a checked task file has for them."""
