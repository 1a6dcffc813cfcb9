"""A run: one prompt in training, with everything that is its own; nothing in it depends on what trains beside it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from softprompt.evaluation.trials import Report
from softprompt.model.label_scores import Labels
from softprompt.prompts.card import goodness, is_best
from softprompt.tasks.config.config import TaskConfig
from softprompt.tasks.config.schedule import rate_at, steps_per_epoch, total_steps
from softprompt.tasks.form import Form
from softprompt.tasks.task import Examples, Task
from softprompt.training.objectives import OBJECTIVES, Objective
from softprompt.training.objectives.label_sets import OF_SETS, class_weights
from softprompt.training.objectives.own_answers import OwnAnswers
from softprompt.training.steps.bank import Rule
from softprompt.training.steps.forward import Example
from softprompt.training.steps.reparameterize import Network

VALIDATIONS = 20
"""Of a run at most, where a task file does not ask for more: with few rows an epoch is a step or two, and to judge after
each would cost more than to train."""


class Begins(NamedTuple):
    """Where a prompt starts."""

    vectors_PD: Tensor
    parents: tuple[str, ...]
    """Digests of the prompts that they come from."""


@dataclass(eq=False)
class Run:
    """One prompt in training."""

    task: Task
    config: TaskConfig
    """Its hyperparameters, with nothing left to choose."""
    start_PD: Tensor
    """Where the vectors start, P x D; behind them a head, where its base answers through one."""
    train: Examples
    validation: Examples
    labels: Labels | None
    """Tokens of the labels."""
    parents: tuple[str, ...] = ()
    """Digests of the prompts that it started from."""
    head_rate: float = 1.0
    """The learning rate of its head, where it has one, in units of the vectors'."""
    keeps_start: bool = False
    """Whether it is judged before its first step too, and ends there where no step makes it better: where it starts from a
    prompt that is trained already."""
    whole: Run | None = None
    """The run that this one is a fold of: trained beside it without some of its rows, to be judged on those for it."""
    folds: tuple[Run, ...] = field(default=(), repr=False)
    """Where its validation rows are its training rows: runs that each hold some of them out."""
    held: tuple[int, ...] = ()
    """Of a fold, the places of the rows that it holds out."""
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
    rung: Report | None = None
    """What a sweep compared it by last: its best validation until then, or what it was worth there, if that is more."""
    dropped: bool = False
    """Whether a sweep has given it up."""
    stopped: bool = False
    """Whether something else than its steps has failed, so that no more are of use; not so when it is taken up again."""
    compiled: bool = False
    """Whether steps of it ran in a base with compiled parts."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row for each validation: step, learning rate, training loss, value, validation loss."""
    _losses: list[float] = field(default_factory=list)
    _worse: int = 0
    """Validations since the best one that were worse by the metric."""
    _shuffled: tuple[int, list[int]] | None = None

    @cached_property
    def objective(self) -> Objective[Any]:
        """What it is trained for."""
        return (OF_SETS if self.task.form.is_set else OBJECTIVES)[self.config.objective_name]

    @property
    def head(self) -> int:
        """Rows of its head."""
        return len(self.start_PD) - self.config.num_virtual_tokens

    @property
    def form(self) -> Form:
        """Its task's form, with what its validations found best."""
        threshold = self.best.threshold if self.best is not None else None
        return self.task.form if threshold is None else replace(self.task.form, threshold=threshold)

    @cached_property
    def class_weights(self) -> list[tuple[float, float]]:
        """Of each label, by its own training rows; see :func:`class_weights`."""
        return class_weights(self.config, self.task.form, self.train)

    @cached_property
    def targets(self) -> list[Any]:
        """Of each training row, as the objective has them."""
        targets = self.objective.targets(self.train, self.labels)
        if not (self.task.form.is_set and self.class_weights):
            return targets
        pairs = self.class_weights
        return [
            replace(one, weights=tuple(own[not holds] for own, holds in zip(pairs, one.right, strict=True)))
            for one in targets
        ]

    @cached_property
    def own_answers(self) -> OwnAnswers:
        """What its prompt writes while it is trained."""
        return OwnAnswers(self.config, self.task.form, self.train)

    @property
    def coming(self) -> list[int]:
        """The rows of the steps until its own answers are looked at again."""
        per_epoch = steps_per_epoch(self.config, len(self.train))
        steps = range(self.step, min(self.total, self.step + min(self.config.unwanted_every, per_epoch)))
        return [row for step in steps for row in self._rows_of(step)]

    @cached_property
    def weights(self) -> list[float]:
        """What each training row counts in a step's mean beside its size; those of sets weigh label by label."""
        if self.task.form.is_set or not self.class_weights:
            return [1.0] * len(self.train)
        return [self.class_weights[choice][0] for choice in self.train.choices]

    def split(self, folds: Sequence[Sequence[int]]) -> None:
        """Be judged by folds, each of which holds out the rows at these places."""
        made = []
        for places in folds:
            rest = [place for place in range(len(self.train)) if place not in set(places)]
            train, held = self.train.pick(rest), self.validation.pick(places)
            made.append(
                Run(
                    self.task,
                    self.config,
                    self.start_PD,
                    train,
                    held,
                    self.labels,
                    head_rate=self.head_rate,
                    whole=self,
                    held=tuple(places),
                )
            )
        self.folds = tuple(made)

    @cached_property
    def tokens(self) -> float:
        """Of a step, its prompt and its rows with their targets, in the mean over an epoch."""
        tails = (self.objective.tails(target) for target in self.targets)
        rows = sum(len(ids) + max(map(len, ends)) for ids, ends in zip(self.train.inputs, tails, strict=True))
        fronts, length, steps = (
            self.train.fronts,
            self.config.num_virtual_tokens,
            steps_per_epoch(self.config, len(self.train)),
        )
        if self.task.form.front_varies:
            return (rows + sum(map(len, fronts)) + length * len(fronts)) / steps
        return length + len(self.train.front(0)) + rows / steps

    def tokens_of(self, batch: Sequence[Example]) -> int:
        """Of one step over these rows, counted likewise: a prompt once, or once for each row that has text of its own before
        it."""
        rows = sum(row.length for row in batch)
        length = self.config.num_virtual_tokens
        if self.task.form.front_varies:
            return rows + sum(len(row.front) + length for row in batch)
        return rows + len(batch[0].front) + length

    @property
    def rule(self) -> Rule:
        """How it is updated."""
        config = self.config
        kind = config.encoder_reparameterization_type
        network = Network(kind, config.encoder_hidden_size, config.seed, self.head) if kind else None
        clip, head = config.max_grad_norm, (self.head, self.head_rate)
        return Rule(config.optim, config.weight_decay, clip, network, config.adam_beta2, *head)

    @property
    def total(self) -> int:
        """Steps to do."""
        return self.whole.total if self.whole is not None else total_steps(self.config, len(self.train))

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        return rate_at(self.config, self.step, self.total)

    @property
    def running(self) -> bool:
        """Whether it wants another step. A fold goes as far as the whole does."""
        if self.whole is not None:
            return self.whole.running
        patience = self.config.early_stopping_patience
        going = self.failure is None and not self.dropped and not self.stopped
        return going and self.step < self.total and (patience is None or self._worse < patience)

    def batch(self, which: int) -> list[Example]:
        """The rows of the next step, weighted so that the run's loss is a mean. A function of seed and step alone."""
        rows = self._rows_of(self.step)
        own, train = self.weights, self.train
        total = sum(self.objective.size(self.targets[row]) * own[row] for row in rows)
        return [
            Example(which, train.inputs[row], self.objective, self.targets[row], own[row] / total, train.front(row))
            for row in rows
        ]

    def _rows_of(self, step: int) -> list[int]:
        epoch, place = divmod(step, steps_per_epoch(self.config, len(self.train)))
        size = self.config.per_device_train_batch_size
        return self._order(epoch)[place * size : (place + 1) * size]

    def _order(self, epoch: int) -> list[int]:
        if self._shuffled is None or self._shuffled[0] != epoch:
            order = list(range(len(self.train)))
            random.Random(f"{self.config.seed} {epoch}").shuffle(order)
            self._shuffled = (epoch, order)
        return self._shuffled[1]

    def took_step(self, loss: float, *, compiled: bool = False) -> None:
        """Count a step."""
        self.step += 1
        self.compiled |= compiled
        self._losses.append(loss)
        self.loss = sum(self._losses) / len(self._losses)

    @property
    def validates(self) -> bool:
        """Whether a validation is due after the step just done; a fold has none of its own."""
        if self.whole is not None:
            return False
        return self.step == self.total or self.step % self._every == 0

    @property
    def validations(self) -> int:
        """How many there are from its first step to its last."""
        return math.ceil(self.total / self._every)

    @property
    def _every(self) -> int:
        """Steps between validations."""
        epoch, asked = steps_per_epoch(self.config, len(self.train)), self.config.eval_per_epoch
        return max(epoch, math.ceil(self.total / VALIDATIONS)) if asked is None else max(1, epoch // asked)

    @property
    def start_due(self) -> bool:
        """Whether its start is to be judged before the step to come."""
        return self.keeps_start and self.step == 0 and self.best is None and self.running

    def took_start(self, report: Report) -> None:
        """Let where it starts be the best until a validation is better. It is no row of the history, which is of steps."""
        self.best, self.best_PD, self.best_step = report, self.start_PD, 0

    def took_validation(self, report: Report, vectors_PD: Tensor) -> None:
        """Keep the best vectors by validation. One of equal value but higher loss is not kept, and uses up no patience: the
        metric may be coarse. Where it is at its top, nothing can be better, and there it does."""
        self.history.append(
            {
                "step": self.step,
                "learning_rate": self.rate_before,
                "loss": self.loss,
                "value": report.value,
                "validation_loss": report.loss,
            }
        )
        self._losses.clear()
        if self.best is None or report.better_than(self.best):
            self.best, self.best_PD, self.best_step, self._worse = report, vectors_PD, self.step, 0
        elif goodness(report.metric, report.value) < goodness(report.metric, self.best.value) or is_best(
            report.metric, report.value
        ):
            self._worse += 1

    @property
    def rate_before(self) -> float:
        """Learning rate of the step just done."""
        return rate_at(self.config, max(0, self.step - 1), self.total)

    def fail(self, why: str) -> None:
        """Stop before the end; a fold takes its whole along."""
        (self.whole or self).failure = why

    def state(self) -> dict[str, Any]:
        """Everything that its next step, and its end, depend on, but for its place in the bank."""
        reports = {name: dict(vars(report)) if (report := getattr(self, name)) else None for name in _REPORTS}
        own = {"own_answers": self.own_answers.state()} if self.config.unwanted_patterns else {}
        return {name: getattr(self, name) for name in _STATE} | reports | {"best_PD": self.best_PD} | own

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in _STATE:
            setattr(self, name, state[name])
        for name in _REPORTS:  # checkpoints of before have no rung, and no predictions
            known = state.get(name)
            setattr(self, name, Report(**{"predictions": [], **known}) if known is not None else None)
        self.best_PD = state["best_PD"]
        if self.config.unwanted_patterns:
            self.own_answers.load_state(state["own_answers"], self.targets)


_STATE = ("step", "loss", "best_step", "failure", "dropped", "compiled", "history", "_losses", "_worse")
_REPORTS = ("best", "rung")
