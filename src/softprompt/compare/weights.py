"""Methods that train weights: LoRA, and full fine-tuning.

Both train by language modelling of the answer, with AdamW, a short warm-up and a linear decay. Passes are in the base's
dtype, what is trained in float32: updates as small as fine-tuning's would be lost in 16 bits.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.compare.method import Settings, Trained
from softprompt.compare.trainer import without_future_warnings
from softprompt.errors import ConfigError
from softprompt.model.architecture import architecture_of
from softprompt.model.splice import chunk_by_length, no_prompt, stack_prompts
from softprompt.progress import Progress
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.schedule import rate_at, total_steps
from softprompt.tasks.task import Examples, Task
from softprompt.training.objectives import LANGUAGE_MODELING

BATCH, WARMUP, NORM = 16, 0.06, 1.0
_TOKENS = 2048
"""Padded tokens of one pass."""


class Lora:
    """LoRA on the projections of queries and values, or where PEFT puts it by default on such a model."""

    rate, rank, alpha = 1e-3, 8, 16

    def check(self, task: Task, base: FrozenBase) -> None:
        _refuse_few_bits(base, "lora")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return _settings(self.rate) | {"r": self.rank, "lora_alpha": self.alpha}

    def train(self, task: Task, base: FrozenBase, progress: Progress) -> Trained:
        import peft

        torch.manual_seed(task.config.seed)  # for the adapter's start
        config = peft.LoraConfig(task_type=base.task_type, r=self.rank, lora_alpha=self.alpha)
        try:
            with without_future_warnings():
                model = peft.get_peft_model(copy.deepcopy(base.model), config)
        except ValueError as error:
            raise ConfigError(f"PEFT knows no place for LoRA on {base.name} ({error}); leave out lora") from None
        kept = peft.get_peft_model_state_dict(model)
        trained = [one for one in model.parameters() if one.requires_grad]
        tuned = replace(base, model=model.get_base_model())  # the adapter's layers are in its place
        steps = fit_weights(tuned, trained, task, self.rate, progress)
        return _trained(tuned, task, trained, sum(one.nbytes for one in kept.values()), steps)


class Full:
    """Full fine-tuning: every weight of a copy of the base."""

    def __init__(self, rate: float = 5e-5) -> None:
        self.rate = rate

    def check(self, task: Task, base: FrozenBase) -> None:
        _refuse_few_bits(base, "full")

    def settings(self, task: Task, base: FrozenBase) -> Settings:
        return _settings(self.rate)

    def train(self, task: Task, base: FrozenBase, progress: Progress) -> Trained:
        tuned = replace(base, model=copy.deepcopy(base.model))
        tuned.model.requires_grad_(True)
        trained = list(tuned.model.parameters())
        steps = fit_weights(tuned, trained, task, self.rate, progress)
        return _trained(tuned, task, trained, sum(one.nbytes for one in trained), steps)


def fit_weights(base: FrozenBase, trained: Sequence[Tensor], task: Task, rate: float, progress: Progress) -> int:
    """Train some weights of a model in place; how many steps it took. They are frozen again behind it."""
    examples = task.encode(base, task.train, 0, split="training")
    steps = total_steps(task.config, len(examples))
    schedule = TaskConfig(learning_rate=1.0, warmup_ratio=WARMUP, lr_scheduler_type="linear")
    masters = [one if one.dtype == torch.float32 else one.detach().float() for one in trained]
    optimiser = torch.optim.AdamW(masters, lr=rate, weight_decay=0.0, fused=True)
    with progress.stage("train", steps) as advance:
        for step in range(steps):
            loss = _backward(base, examples, batch_of(step, len(examples), task.config.seed))
            for master, weight in zip(masters, trained, strict=True):
                if master is not weight and weight.grad is not None:
                    master.grad, weight.grad = weight.grad.float(), None
            torch.nn.utils.clip_grad_norm_(masters, NORM)
            optimiser.param_groups[0]["lr"] = rate * rate_at(schedule, step, steps)
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


def _backward(base: FrozenBase, examples: Examples, rows: Sequence[int]) -> float:
    """Put the gradient of the mean loss of an answer's token on the weights; the loss."""
    architecture, stack = architecture_of(base), stack_prompts([no_prompt(base)])
    tokens, total = sum(len(examples.targets[row]) for row in rows), 0.0
    for chunk in chunk_by_length([len(examples.inputs[row]) + len(examples.targets[row]) for row in rows], _TOKENS):
        inputs = [examples.inputs[rows[place]] for place in chunk]
        targets = [examples.targets[rows[place]] for place in chunk]
        tails = [LANGUAGE_MODELING.tails(target) for target in targets]
        logits_NV = architecture.logits_behind(stack, None, [0] * len(chunk), inputs, tails)
        loss = LANGUAGE_MODELING.losses(targets, logits_NV).sum() / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


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


def _settings(rate: float) -> Settings:
    fixed = {"per_device_train_batch_size": BATCH, "lr_scheduler_type": "linear", "warmup_ratio": WARMUP}
    return {"learning_rate": rate, **fixed, "optim": "adamw", "objective": "language_modelling"}


def _trained(base: FrozenBase, task: Task, trained: Sequence[Tensor], size: int, steps: int) -> Trained:
    test = task.encode(base, task.test, 0, split="test")
    return Trained(architecture_of(base), no_prompt(base), test, sum(one.numel() for one in trained), size, steps)


def _refuse_few_bits(base: FrozenBase, method: str) -> None:
    if base.quantization is not None:
        kind = base.quantization
        raise ConfigError(f"the method {method!r} trains weights, and those of {base.name} are {kind}; load it without")
