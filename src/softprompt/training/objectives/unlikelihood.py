"""Unlikelihood (Welleck et al. 2020): the right answer, and away from an unwanted one.

Shapes: N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from softprompt.errors import DataError
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Tails
from softprompt.tasks.task import Examples
from softprompt.training.objectives.columns import answers_in
from softprompt.training.objectives.objective import Objective, Splits, Surroundings

_MOST = -1e-6
"""Bound on the log-probability of an unwanted token: the loss of one that is certain would have no end."""


@dataclass(frozen=True)
class Unwanted:
    """An answer and one that must not come."""

    answer: tuple[int, ...]
    unwanted: tuple[int, ...]
    """Empty where the row has none."""
    weight: float
    """Of the unwanted one."""

    @property
    def shared(self) -> int:
        """Tokens that both begin with, which are none of the unwanted ones."""
        pairs = zip(self.answer, self.unwanted, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Unlikelihood(Objective[Unwanted]):
    """The negative log-probability of the answer's tokens, and, weighted, minus the logarithm of one minus the probability
    of each token of the unwanted answer from where the two part. Each token of the answer counts alike."""

    def complete(self, splits: Splits, around: Surroundings) -> Generator[tuple[int, int], None, Splits]:
        yield from ()
        task, column = around.task, around.task.config.unwanted or ""
        found, weight = {}, task.config.unwanted_weight
        for split, rows in task.splits.items():
            examples, beside = splits[split], list[Unwanted]()
            for place, ids in enumerate(answers_in(around.architecture.base, task, rows, column)):
                one = Unwanted(tuple(examples.targets[place]), tuple(ids or ()), weight)
                if one.answer == one.unwanted:
                    raise DataError(
                        f"task {task.name!r}, {rows.where(place)}: {column!r} is the right answer itself; mend it"
                    )
                beside.append(one)
            found[split] = replace(examples, beside=beside)
        if not any(one.unwanted for one in found["training"].beside):
            raise DataError(
                f"task {task.name!r}: no training row has an unwanted answer in the column {column!r}, and the objective is "
                "unlikelihood; give some, or leave `objective` out"
            )
        return found

    def targets(self, examples: Examples, labels: Labels | None) -> list[Unwanted]:
        return list(examples.beside)

    def tails(self, target: Unwanted) -> Tails:
        return (target.answer[:-1], target.unwanted[:-1])

    def size(self, target: Unwanted) -> int:
        return len(target.answer)

    def losses(self, targets: Sequence[Unwanted], logits_NV: Tensor) -> Tensor:
        picked: list[tuple[int, int, int, float]] = []  # place, token, row, weight; of a wanted token no weight
        first = 0
        for row, target in enumerate(targets):
            behind = first + len(target.answer) - 1  # the last of the answer's own logits
            picked += [(first + place, token, row, 0.0) for place, token in enumerate(target.answer)]
            for place, token in enumerate(target.unwanted):
                if place >= target.shared:
                    picked.append((first if place == 0 else behind + place, token, row, target.weight))
            first += 1 + sum(map(len, self.tails(target)))
        device = logits_NV.device
        place_M, token_M, row_M = torch.tensor([one[:3] for one in picked], device=device).unbind(1)
        weight_M = torch.tensor([one[3] for one in picked], device=device)
        logits_NV = logits_NV.float()
        logs_M = logits_NV[place_M, token_M] - logits_NV.logsumexp(-1)[place_M]
        away_M = -torch.log(-torch.expm1(logs_M.clamp_max(_MOST)))
        losses_M = torch.where(weight_M > 0, weight_M * away_M, -logs_M)
        return torch.zeros(len(targets), device=device).index_add(0, row_M, losses_M)
