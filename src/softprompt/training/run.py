"""A run: one prompt in training, with everything that is its own. Nothing in it depends on what trains beside it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from softprompt.evaluation.evaluate import Report
from softprompt.model.label_scores import Labels
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.task import Examples, Task
from softprompt.training.bank import Rule
from softprompt.training.forward import Example
from softprompt.training.objectives import Objective, objective_of
from softprompt.training.reparameterize import Network
from softprompt.training.schedule import rate_at, steps_per_epoch, total_steps


@dataclass
class Run:
    """One prompt in training."""

    task: Task
    start_PD: Tensor
    """Where the vectors start, P x D."""
    train: Examples
    validation: Examples
    labels: Labels | None
    """Tokens of the labels."""
    parents: tuple[str, ...] = ()
    """Digests of the prompts that it started from."""
    step: int = 0
    """Steps done."""
    loss: float = math.nan
    """Mean loss since the last validation."""
    best: Report | None = None
    """The best validation so far."""
    best_PD: Tensor | None = None
    """The vectors that it was of."""
    best_step: int = 0
    failure: str | None = None
    """Why the run was stopped before its end."""
    dropped: bool = False
    """Whether a sweep has given it up."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row for each validation: step, learning rate, loss, value."""
    _losses: list[float] = field(default_factory=list)
    _worse: int = 0
    _shuffled: tuple[int, list[int]] | None = None

    @property
    def config(self) -> TaskConfig:
        """Its hyperparameters."""
        return self.task.config

    @cached_property
    def objective(self) -> Objective[Any]:
        """What it is trained for."""
        return objective_of(self.config.objective_name)

    @cached_property
    def targets(self) -> list[Any]:
        """Of each training row, as the objective has them."""
        return self.objective.targets(self.train, self.labels)

    @property
    def rule(self) -> Rule:
        """How it is updated."""
        config = self.config
        kind = config.encoder_reparameterization_type
        network = Network(kind, config.encoder_hidden_size, config.seed) if kind else None
        return Rule(config.optim, config.weight_decay, config.max_grad_norm, network)

    @property
    def total(self) -> int:
        """Steps to do."""
        return total_steps(self.config, len(self.train))

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return rate_at(self.config, self.step, self.total)

    @property
    def running(self) -> bool:
        """Whether it wants another step."""
        patience = self.config.early_stopping_patience
        going = self.failure is None and not self.dropped
        return going and self.step < self.total and (patience is None or self._worse < patience)

    def batch(self, which: int) -> list[Example]:
        """The rows of the next step, weighted so that the run's loss is a mean. A function of seed and step alone."""
        per_epoch = steps_per_epoch(self.config, len(self.train))
        epoch, place = divmod(self.step, per_epoch)
        order = self._order(epoch)
        size = self.config.per_device_train_batch_size
        rows = order[place * size : (place + 1) * size]
        total = sum(self.objective.size(self.targets[row]) for row in rows)
        return [Example(which, self.train.inputs[row], self.objective, self.targets[row], 1 / total) for row in rows]

    def _order(self, epoch: int) -> list[int]:
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = list(range(len(self.train)))
            random.Random(f"{self.config.seed} {epoch}").shuffle(order)
            self._shuffled = (epoch, order)
        return self._shuffled[1]

    def took_step(self, loss: float) -> None:
        """Count a step."""
        self.step += 1
        self._losses.append(loss)
        self.loss = sum(self._losses) / len(self._losses)

    @property
    def validates(self) -> bool:
        """Whether a validation is due after the step just done."""
        every = max(1, steps_per_epoch(self.config, len(self.train)) // self.config.eval_per_epoch)
        return self.step == self.total or self.step % every == 0

    def took_validation(self, report: Report, vectors_PD: Tensor) -> None:
        """Keep the best vectors by validation."""
        self.history.append({"step": self.step, "learning_rate": self.rate_before, "loss": self.loss, "value": report.value})
        self._losses.clear()
        if report.better_than(self.best):
            self.best, self.best_PD, self.best_step, self._worse = report, vectors_PD, self.step, 0
        else:
            self._worse += 1

    @property
    def rate_before(self) -> float:
        """Learning rate of the step just done."""
        return rate_at(self.config, max(0, self.step - 1), self.total)
