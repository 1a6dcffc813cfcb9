"""Distillation: to answer as the base does behind a written instruction.

Shapes: B rows, C labels, N logits of all rows end to end, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.evaluation.metrics import score
from softprompt.evaluation.trials import Report
from softprompt.model.label_scores import Labels, label_contexts, score_labels
from softprompt.model.lines import Tails
from softprompt.tasks.task import Examples, Task
from softprompt.training.objectives.objective import Objective, Splits, Surroundings
from softprompt.training.objectives.teacher import Taught, Teacher, asked

DECIDED = 0.2
"""Of two labels that the instructed base gives probabilities that are closer, it may as well have said the other."""
_LEAST = 1e-6
"""Less probability than this counts as none: a float32 cannot tell it from what one minus a sum leaves."""


class Distillation(Objective[Taught]):
    """The Kullback-Leibler divergence of the prompt's distribution from the instructed base's.

    Over labels it is that of their distribution, and that of how likely any label is at all: the first alone would let the
    prompt forget to answer with a label. Each row counts alike. Where the task writes it is that of the next token, summed
    over the tokens of the answer that the instructed base gave; each token counts alike.
    """

    def complete(self, splits: Splits, around: Surroundings) -> Generator[tuple[int, int], None, Splits]:
        task, base = around.task, around.architecture.base
        inputs = {split: asked(base, task, rows, split) for split, rows in task.splits.items()}
        for split, own in inputs.items():
            if own.truncated > splits[split].truncated:
                around.warn(
                    f"{task.name}: behind the instruction {own.truncated} of {len(own)} {split} inputs were cut to fit the "
                    f"context, the first of them {own.first_cut}: the instructed base did not see all of them"
                )
        teacher = Teacher(task, around.architecture, around.kept, around.warn)
        said = yield from teacher.answer([ids for own in inputs.values() for ids in own.inputs], around.most)
        of_row = iter(said)
        taught = {split: [next(of_row) for _ in own.inputs] for split, own in inputs.items()}
        return {
            split: _taught(task, examples, taught[split], whole=split == "validation") for split, examples in splits.items()
        }

    def targets(self, examples: Examples, labels: Labels | None) -> list[Taught]:
        return list(examples.beside)

    def tails(self, target: Taught) -> Tails:
        return label_contexts(target.labels) if target.labels is not None else (target.ids[:-1],)

    def size(self, target: Taught) -> int:
        return 1 if target.labels is not None else len(target.ids)

    def losses(self, targets: Sequence[Taught], logits_NV: Tensor) -> Tensor:
        losses_B = logits_NV.new_zeros(len(targets), dtype=torch.float32)
        sizes = [1 + sum(map(len, self.tails(target))) for target in targets]
        parts = torch.split(logits_NV, sizes)
        for labelled, divergences in ((True, _of_labels), (False, _of_tokens)):
            places = [place for place, target in enumerate(targets) if (target.labels is not None) == labelled]
            if places:
                some_NV = logits_NV if len(places) == len(targets) else torch.cat([parts[place] for place in places])
                found_B = divergences([targets[place] for place in places], some_NV)
                losses_B = losses_B.index_add(0, torch.tensor(places, device=losses_B.device), found_B)
        return losses_B

    def scores(self, task: Task, test: Examples, report: Report) -> dict[str, float]:
        said = [taught.said for taught in test.beside]
        agreement = score("accuracy", report.predictions, said)
        teacher = score(report.metric, *task.form.judged(said, test.answers))
        found = {
            "agreement": agreement.value,
            "agreement_stderr": agreement.stderr,
            "teacher": teacher.value,
            "teacher_stderr": teacher.stderr,
        }
        if not task.form.labels:
            return found
        decided = [row for row, taught in enumerate(test.beside) if _lead(taught) >= DECIDED]
        found["decided"] = len(decided) / len(said)
        if decided:
            there = score("accuracy", [report.predictions[row] for row in decided], [said[row] for row in decided])
            found |= {"agreement_decided": there.value, "agreement_decided_stderr": there.stderr}
        return found


def _taught(task: Task, examples: Examples, taught: Sequence[Taught], *, whole: bool) -> Examples:
    """Rows with what the instructed base says beside them, which stands in for an answer where there is none, and in a
    `whole` split, which chooses the prompt, for every answer."""
    labels, answers = task.form.labels, list(examples.answers)
    choices, targets = list(examples.choices), list(examples.targets)
    for row, one in enumerate(taught):
        if answers[row] and not whole:
            continue
        if one.labels is not None and labels is not None:
            choices[row] = labels.index(one.said)
            answers[row], targets[row] = one.said, list(one.labels[choices[row]])
        else:
            answers[row] = task.form.unwrap(one.said)
            targets[row] = list(one.ids)
    if whole:
        examples = replace(examples, longest_answer=0, answers_cut=0, first_answer_cut="")
    return replace(examples, answers=answers, choices=choices, targets=targets, beside=list(taught))


def _lead(taught: Taught) -> float:
    """By how much the likeliest label is ahead of the next, as probabilities among the labels; of one label all of it."""
    first, *others = torch.tensor(taught.scores).softmax(0).sort(descending=True).values.tolist()
    return float(first - max(others, default=0.0))


def _of_labels(targets: Sequence[Taught], logits_NV: Tensor) -> Tensor:
    losses = []
    for target, scores_C in zip(targets, score_labels(logits_NV, [target.labels or () for target in targets]), strict=True):
        taught_C = torch.tensor(target.scores, device=scores_C.device)
        among = F.kl_div(scores_C.log_softmax(0), taught_C.log_softmax(0), reduction="sum", log_target=True)
        losses.append(among + _of_any(taught_C.logsumexp(0), scores_C.logsumexp(0)))
    return torch.stack(losses)


def _of_any(taught: Tensor, own: Tensor) -> Tensor:
    """The divergence of two distributions over something and all else, by the log-probability of the something."""
    taught, own = taught.clamp_max(-_LEAST), own.clamp_max(-_LEAST)
    rest, own_rest = (torch.log(-torch.expm1(each)) for each in (taught, own))
    return taught.exp() * (taught - own) + rest.exp() * (rest - own_rest)


def _of_tokens(targets: Sequence[Taught], logits_NV: Tensor) -> Tensor:
    device = logits_NV.device
    tokens_NK = torch.cat([target.tokens_TK for target in targets if target.tokens_TK is not None]).to(device)
    taught_NK = torch.cat([target.logs_TK for target in targets if target.logs_TK is not None]).to(device)
    owner_N = torch.tensor([owner for owner, target in enumerate(targets) for _ in target.ids], device=device)
    logits_NV = logits_NV.float()
    own_NK = logits_NV.gather(1, tokens_NK) - logits_NV.logsumexp(1, keepdim=True)
    losses_N = (taught_NK.exp() * (taught_NK - own_NK)).sum(1)
    rest_N, own_rest_N = (torch.log(-torch.expm1(each.logsumexp(1).clamp_max(-_LEAST))) for each in (taught_NK, own_NK))
    if tokens_NK.shape[1] < logits_NV.shape[1]:
        losses_N = losses_N + rest_N.exp() * (rest_N - own_rest_N)
    return torch.zeros(len(targets), device=device).index_add(0, owner_N, losses_N)
