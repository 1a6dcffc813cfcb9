"""Unlikelihood (Welleck et al. 2020): the right answer, and away from an unwanted one.

Shapes: N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from softprompt.errors import DataError
from softprompt.evaluation.columns import answers_in
from softprompt.evaluation.metrics import row_values
from softprompt.evaluation.trials import Report
from softprompt.model.label_scores import Labels
from softprompt.model.lines import Tails
from softprompt.rows.values import short
from softprompt.tasks.answers.patterns import Patterns
from softprompt.tasks.task import Examples, Task
from softprompt.training.objectives.objective import Objective, Splits, Surroundings

RATE = "unwanted_rate"
"""Among the metrics of a card: the share of test rows whose answer must not come."""

_MOST = -1e-6
"""Bound on the log-probability of an unwanted token: the loss of one that is certain would have no end."""


@dataclass(frozen=True)
class Unwanted:
    """An answer and those that must not come."""

    answer: tuple[int, ...]
    unwanted: tuple[int, ...]
    """Empty where the row has none."""
    weight: float
    """Of each unwanted one."""
    said: str = ""
    """The unwanted one as text."""
    found: tuple[int, ...] = ()
    """What the prompt itself wrote that must not come; empty where it did not."""

    def shared(self, other: Sequence[int]) -> int:
        """Tokens that the answer and another begin with, which are none of the unwanted ones."""
        pairs = zip(self.answer, other, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Unlikelihood(Objective[Unwanted]):
    """The negative log-probability of the answer's tokens, and, weighted, minus the logarithm of one minus the probability
    of each token of the unwanted answers from where they part from it. Each token of the answer counts alike."""

    def complete(self, splits: Splits, around: Surroundings) -> Generator[tuple[int, int], None, Splits]:
        yield from ()
        task, column = around.task, around.task.config.unwanted
        found, weight = {}, task.config.unwanted_weight
        for split, rows in task.splits.items():
            examples, beside = splits[split], list[Unwanted]()
            answers = answers_in(around.architecture.base, task, rows, column) if column else [None] * len(rows)
            for place, said in enumerate(answers):
                text, ids = said or ("", [])
                one = Unwanted(tuple(examples.targets[place]), tuple(ids), weight, text)
                if one.answer == one.unwanted:
                    raise DataError(
                        f"task {task.name!r}, {rows.where(place)}: {column!r} is the right answer itself; mend it"
                    )
                beside.append(one)
            found[split] = replace(examples, beside=beside)
        if task.config.unwanted_patterns:
            for split in ("training", "test"):
                _check_right_answers(task, splits[split], split, around)
        elif not any(one.unwanted for one in found["training"].beside):
            raise DataError(
                f"task {task.name!r}: no training row has an unwanted answer in the column {column!r}, and the objective is "
                "unlikelihood; give some, or leave `objective` out"
            )
        return found

    def targets(self, examples: Examples, labels: Labels | None) -> list[Unwanted]:
        return list(examples.beside)

    def tails(self, target: Unwanted) -> Tails:
        return (target.answer[:-1], *(unwanted[:-1] for unwanted in (target.unwanted, target.found) if unwanted))

    def size(self, target: Unwanted) -> int:
        return len(target.answer)

    def losses(self, targets: Sequence[Unwanted], logits_NV: Tensor) -> Tensor:
        picked: list[tuple[int, int, int, float]] = []  # place, token, row, weight; of a wanted token no weight
        first = 0
        for row, target in enumerate(targets):
            picked += [(first + place, token, row, 0.0) for place, token in enumerate(target.answer)]
            behind = first + len(target.answer) - 1  # the last of the answer's own logits
            for unwanted in filter(None, (target.unwanted, target.found)):
                for place in range(target.shared(unwanted), len(unwanted)):
                    picked.append((first if place == 0 else behind + place, unwanted[place], row, target.weight))
                behind += len(unwanted) - 1
            first = behind + 1
        device = logits_NV.device
        place_M, token_M, row_M = torch.tensor([one[:3] for one in picked], device=device).unbind(1)
        weight_M = torch.tensor([one[3] for one in picked], device=device)
        logits_NV = logits_NV.float()
        logs_M = logits_NV[place_M, token_M] - logits_NV.logsumexp(-1)[place_M]
        away_M = -torch.log(-torch.expm1(logs_M.clamp_max(_MOST)))
        losses_M = torch.where(weight_M > 0, weight_M * away_M, -logs_M)
        return torch.zeros(len(targets), device=device).index_add(0, row_M, losses_M)

    def scores(self, task: Task, test: Examples, report: Report) -> dict[str, float]:
        patterns, unwanted = Patterns(must_not=task.config.unwanted_patterns), [one.said for one in test.beside]
        same = row_values("exact_match", *task.form.judged(report.predictions, unwanted))
        hits = [
            bool(patterns.check(text)) or (bool(other) and equal == 1)
            for text, other, equal in zip(report.predictions, unwanted, same, strict=True)
        ]
        rate = sum(hits) / len(hits)
        return {RATE: rate, f"{RATE}_stderr": math.sqrt(rate * (1 - rate) / len(hits))}

    baseline_scores = scores


def _check_right_answers(task: Task, examples: Examples, split: str, around: Surroundings) -> None:
    """Tell of right answers that must not be written.

    Raises:
        DataError: all of those that are trained are so.
    """
    patterns = Patterns(must_not=task.config.unwanted_patterns)
    failed = [(row, found[0].pattern) for row, text in enumerate(examples.answers) if (found := patterns.check(text))]
    if not failed:
        return
    row, pattern = failed[0]
    told = f"{len(failed)} of {len(examples)} right answers of {split} rows match `unwanted_patterns`"
    where = f"the first at {task.splits[split].where(row)} matches {short(pattern)}"
    if split == "training" and len(failed) == len(examples):
        raise DataError(
            f"task {task.name!r}: all right answers of training rows match `unwanted_patterns`, {where}; mend them"
        )
    so = "what the prompt writes there is not looked at" if split == "training" else "no answer there is right and wanted"
    around.warn(f"{task.name}: {told}, {where}; {so}")
