"""The loop of the methods that are not ours: AdamW with a short warm-up and a linear decay, over whatever is trained.

Training is by language modelling of the answer; on bases that answer through a head, by scoring labels, the head trained
along. Passes are in the base's dtype, what is trained in float32: updates as small as fine-tuning's would be lost in 16
bits.

Shapes: P virtual tokens, D width, H rows of a head, R = P + H, B rows, N logits of all rows end to end, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.compare.method import Settings, Trained
from softprompt.errors import TrainingError
from softprompt.model.architecture import Architecture, architecture_of
from softprompt.model.kinds.headed_encoder import HeadedEncoder
from softprompt.model.splice import chunk_by_length, no_prompt, stack_prompts
from softprompt.progress import Progress
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.config.schedule import rate_at, total_steps
from softprompt.tasks.task import Examples, Task
from softprompt.training.heads import start_head
from softprompt.training.objectives import LABEL_SCORING, LANGUAGE_MODELING
from softprompt.training.objectives.label_sets import class_weights
from softprompt.training.objectives.objective import Objective
from softprompt.training.prepare import RATE

BATCH, WARMUP, NORM = 16, 0.06, 1.0
_TOKENS = 2048
"""Padded tokens of one pass."""


def settings_of(base: FrozenBase, rate: float) -> Settings:
    """What every method of this loop is told."""
    fixed = {"per_device_train_batch_size": BATCH, "lr_scheduler_type": "linear", "warmup_ratio": WARMUP}
    objective = "label_scoring" if base.task_type == "SEQ_CLS" else "language_modelling"
    return {"learning_rate": rate, **fixed, "optim": "adamw", "objective": objective}


@dataclass(frozen=True)
class TrainedHead:
    """A head that is trained along."""

    rows_HD: Tensor
    """Its numbers as rows behind the vectors, float32."""
    pace: float
    """Its learning rate at the usual rate of a method, whatever that is."""
    numbers: int
    """How many of them are its own: the rest is padding."""


def head_of(architecture: Architecture, task: Task) -> TrainedHead | None:
    """The head of a task at its start, as our own prompts start theirs; None on bases that answer in words."""
    if not isinstance(architecture, HeadedEncoder):
        return None
    base, labels = architecture.base, task.form.encode_labels(architecture.base)
    train = task.encode(base, task.train, 0, split="training")
    rows_HD, gain = start_head(architecture, task, labels, train, [], base.width)
    return TrainedHead(rows_HD.to(base.device), RATE * gain, len(labels) * (architecture.head.features + 1))


def fit(
    base: FrozenBase,
    trained: Sequence[Tensor],
    task: Task,
    rate: float,
    progress: Progress,
    *,
    factor: float = 1.0,
    size: int,
    vectors: Callable[[], Tensor] | None = None,
    length: int = 0,
) -> Trained:
    """Train some tensors in place, weights of the base among them or none, and freeze them again.

    Args:
        base: whose weights they are, or which stands behind what they make; it answers.
        rate: the usual learning rate, of which `factor` is taken.
        size: bytes that must be kept beside the base, a head left out.
        vectors: what stands before inputs, P x D, made of what is trained; by default nothing.
        length: P.

    Raises:
        TrainingError: the loss is no number.
    """
    architecture = architecture_of(base)
    head = head_of(architecture, task)
    rows = _Rows(base, vectors, None if head is None else head.rows_HD.requires_grad_())
    groups = [(one, rate * factor) for one in trained] + ([] if head is None else [(head.rows_HD, head.pace * factor)])
    steps = _descend(architecture, rows, groups, task, length, progress)
    with torch.no_grad():
        answers_RD = rows.made().to(base.dtype)
    return Trained(
        architecture,
        answers_RD,
        task.encode(base, task.test, length, split="test"),
        sum(one.numel() for one in trained) + (0 if head is None else head.numbers),
        size + (0 if head is None else 4 * head.numbers),
        steps,
        float(f"{rate * factor:.3g}"),
    )


@dataclass(frozen=True)
class _Rows:
    """What stands before inputs: vectors, and behind them a head."""

    base: FrozenBase
    vectors: Callable[[], Tensor] | None
    head_HD: Tensor | None

    def made(self) -> Tensor:
        """R x D, float32 where any of it is trained."""
        parts = [] if self.vectors is None else [self.vectors()]
        parts += [] if self.head_HD is None else [self.head_HD]
        return torch.cat(parts) if parts else no_prompt(self.base)


def _descend(
    architecture: Architecture,
    rows: _Rows,
    groups: Sequence[tuple[Tensor, float]],
    task: Task,
    length: int,
    progress: Progress,
) -> int:
    """Take the steps; how many there were."""
    base, trained = architecture.base, [one for one, _ in groups]
    examples = task.encode(base, task.train, length, split="training")
    objective: Objective[Any] = LABEL_SCORING if base.task_type == "SEQ_CLS" else LANGUAGE_MODELING
    targets = objective.targets(examples, task.form.encode_labels(base) if task.form.labels else None)
    weights = weights_of(task, examples)
    steps = total_steps(task.config, len(examples))
    schedule = TaskConfig(learning_rate=1.0, warmup_ratio=WARMUP, lr_scheduler_type="linear")
    masters = [one if one.dtype == torch.float32 else one.detach().float() for one in trained]
    rates: dict[float, list[Tensor]] = {}
    for master, (_, rate) in zip(masters, groups, strict=True):
        rates.setdefault(rate, []).append(master)
    paces = list(rates)
    optimiser = torch.optim.AdamW([{"params": own, "lr": rate} for rate, own in rates.items()], weight_decay=0.0, fused=True)
    with progress.stage("train", steps) as advance:
        for step in range(steps):
            batch = batch_of(step, len(examples), task.config.seed)
            loss = _backward(architecture, rows, examples, objective, targets, weights, batch)
            if not math.isfinite(loss):
                raise TrainingError(f"task {task.name!r}: the loss of step {step + 1} is {loss}; lower the learning rate")
            for master, weight in zip(masters, trained, strict=True):
                if master is not weight and weight.grad is not None:
                    master.grad, weight.grad = weight.grad.float(), None
            torch.nn.utils.clip_grad_norm_(masters, NORM)
            for group, pace in zip(optimiser.param_groups, paces, strict=True):
                group["lr"] = pace * rate_at(schedule, step, steps)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                for master, weight in zip(masters, trained, strict=True):
                    if master is not weight:
                        weight.copy_(master)
            advance(1, f"loss {loss:.3f}" if step % 10 == 0 else "")
    for one in trained:
        one.requires_grad_(False)
    return steps


def _backward(
    architecture: Architecture,
    rows: _Rows,
    examples: Examples,
    objective: Objective[Any],
    targets: Sequence[Any],
    weights: Sequence[float],
    batch: Sequence[int],
) -> float:
    """Put the gradient of the mean loss, in which rows weigh as they do for our prompts, on what is trained; the loss. What
    stands before inputs is made once a step."""
    base = architecture.base
    made_RD = rows.made()
    leaf_RD = made_RD.detach().to(base.dtype).requires_grad_(made_RD.requires_grad)
    sizes, total = sum(objective.size(targets[row]) * weights[row] for row in batch), 0.0
    tails = {row: objective.tails(targets[row]) for row in batch}
    for chunk in chunk_by_length([len(examples.inputs[row]) + max(map(len, tails[row])) for row in batch], _TOKENS):
        own = [batch[place] for place in chunk]
        fronts = list(dict.fromkeys(tuple(examples.front(row)) for row in own))
        stack = stack_prompts([_behind(base, front, leaf_RD) for front in fronts])
        which = [fronts.index(tuple(examples.front(row))) for row in own]
        logits_NV = architecture.logits_behind(
            stack, None, which, [examples.inputs[row] for row in own], [tails[row] for row in own]
        )
        losses_B = objective.losses([targets[row] for row in own], logits_NV)
        weights_B = torch.tensor([weights[row] for row in own], device=losses_B.device, dtype=losses_B.dtype)
        loss = (losses_B * weights_B).sum() / sizes
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    if leaf_RD.grad is not None:
        torch.autograd.backward(made_RD, leaf_RD.grad.to(made_RD.dtype))
    return total


def weights_of(task: Task, examples: Examples) -> list[float]:
    """What each training row counts in a step's mean beside its size, by the task's `class_weights`."""
    by_label = class_weights(task.config, task.form, examples)
    return [by_label[choice][0] for choice in examples.choices] if by_label else [1.0] * len(examples)


def _behind(base: FrozenBase, front: Sequence[int], rows_RD: Tensor) -> Tensor:
    """Rows behind the embeddings of tokens, which may be trained too."""
    if not front:
        return rows_RD
    front_FD = base.embed(torch.tensor(front, dtype=torch.long, device=base.device))
    return torch.cat([front_FD.to(rows_RD.dtype), rows_RD])


def batch_of(step: int, count: int, seed: int) -> list[int]:
    """The rows of a step: every row once before any comes again, in an order by the seed."""
    size = min(BATCH, count)
    places = range(step * size, (step + 1) * size)
    orders = {epoch: _order(epoch, count, seed) for epoch in {place // count for place in places}}
    return [orders[place // count][place % count] for place in places]


def _order(epoch: int, count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order
