"""What a prompt is trained for where an answer is a set of labels: whether each label holds, asked apart; and what a label
weighs.

Shapes: B rows, C labels, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Tails
from softprompt.model.splice import common_head
from softprompt.tasks.answers.kinds import balanced
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples
from softprompt.training.objectives.objective import Objective


@dataclass(frozen=True)
class SetTarget:
    """Which labels hold."""

    scored: Labels
    """Of each label the statement that it holds and the one that it does not; or, where words are learnt, of each label the
    right one, and then of each what the two have in common."""
    right: tuple[bool, ...]
    weights: tuple[float, ...] = ()
    """Of each label's loss; none for 1 each."""


class SetScoring(Objective[SetTarget]):
    """Binary cross-entropy of each label, by its log-odds alone; the mean over the labels. Each row counts alike."""

    def targets(self, examples: Examples, labels: Labels | None) -> list[SetTarget]:
        assert labels is not None
        return [SetTarget(labels, _held(own, len(labels) // 2)) for own in examples.sets]

    def tails(self, target: SetTarget) -> Tails:
        return label_contexts(target.scored)

    def size(self, target: SetTarget) -> int:
        return 1

    def losses(self, targets: Sequence[SetTarget], logits_NV: Tensor) -> Tensor:
        scores = score_labels(logits_NV, [target.scored for target in targets])
        found = []
        for target, scores_S in zip(targets, scores, strict=True):
            odds_C = scores_S[::2] - scores_S[1::2]
            right_C = torch.tensor(target.right, dtype=odds_C.dtype, device=odds_C.device)
            losses_C = F.binary_cross_entropy_with_logits(odds_C, right_C, reduction="none")
            found.append(_mean(losses_C, target))
        return torch.stack(found)


class SetModeling(SetScoring):
    """Negative log-probability, over the whole vocabulary, of what tells each label's right statement from the wrong one, in
    the mean over the labels. Each row counts alike."""

    def targets(self, examples: Examples, labels: Labels | None) -> list[SetTarget]:
        assert labels is not None
        pairs = list(zip(labels[::2], labels[1::2], strict=True))
        heads = tuple(tuple(common_head([list(yes), list(no)])) for yes, no in pairs)
        rights = [_held(own, len(pairs)) for own in examples.sets]
        said = [tuple(pair[not holds] for pair, holds in zip(pairs, right, strict=True)) for right in rights]
        return [SetTarget(own + heads, right) for own, right in zip(said, rights, strict=True)]

    def tails(self, target: SetTarget) -> Tails:
        return label_contexts(_without_empty(target.scored))

    def losses(self, targets: Sequence[SetTarget], logits_NV: Tensor) -> Tensor:
        scores = score_labels(logits_NV, [_without_empty(target.scored) for target in targets])
        found = []
        for target, scores_S in zip(targets, scores, strict=True):
            count = len(target.right)
            whole = iter(scores_S.unbind())
            said = [next(whole) if ids else scores_S.new_zeros(()) for ids in target.scored]
            found.append(_mean(torch.stack(said[count:]) - torch.stack(said[:count]), target))
        return torch.stack(found)


def _held(places: Sequence[int], count: int) -> tuple[bool, ...]:
    return tuple(place in places for place in range(count))


def _without_empty(labels: Labels) -> Labels:
    return tuple(ids for ids in labels if ids)


def _mean(losses_C: Tensor, target: SetTarget) -> Tensor:
    if target.weights:
        losses_C = losses_C * torch.tensor(target.weights, dtype=losses_C.dtype, device=losses_C.device)
    return losses_C.mean()


SET_SCORING, SET_MODELING = SetScoring(), SetModeling()
OF_SETS: dict[str, Objective[Any]] = {"label_scoring": SET_SCORING, "language_modelling": SET_MODELING}
"""By the names of the objectives whose place they take."""


def class_weights(config: TaskConfig, form: Form, examples: Examples) -> list[tuple[float, float]]:
    """What each label weighs where it is the answer, or holds; and where it does not hold. Empty where all weigh 1.

    Balanced, labels count alike in the mean over the training rows; of sets, for each label the rows in which it holds and
    those in which it does not.
    """
    weights, labels = config.class_weights, form.labels or ()
    if weights is None:
        return []
    if weights != "balanced":
        return [(weights.get(label, 1.0), 1.0) for label in labels]
    right = [examples.right(row) for row in range(len(examples))]
    counts = [sum(place in own for own in right) for place in range(len(labels))]
    if form.is_set:
        pairs = (balanced([count, len(right) - count]) for count in counts)
        return [(held, not_held) for held, not_held in pairs]
    return [(weight, 1.0) for weight in balanced(counts)]


def told_weights(labels: Sequence[str], weights: Sequence[tuple[float, float]]) -> str:
    """Class weights in words, the heaviest first."""
    ranked = sorted(zip(labels, weights, strict=True), key=lambda pair: -pair[1][0])
    shown = [f"{label!r} {weight:.3g}" for label, (weight, _) in ranked[:8]]
    return ", ".join(shown) + (f" and {len(ranked) - 8} more" if len(ranked) > 8 else "")
