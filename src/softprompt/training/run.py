"""A run: one prompt in training, with everything that is its own; nothing in it depends on what trains beside it. The
member of a session that it belongs to, and what comes of it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from softprompt.evaluation.baselines import BASELINES, remarks_on_scores
from softprompt.evaluation.metrics import TOP
from softprompt.evaluation.trials import Report
from softprompt.model.label_scores import Labels
from softprompt.tasks.config import TaskConfig
from softprompt.tasks.schedule import rate_at, steps_per_epoch, total_steps
from softprompt.tasks.task import Examples, Task
from softprompt.training.bank import Rule
from softprompt.training.forward import Example
from softprompt.training.objectives import OBJECTIVES, Objective
from softprompt.training.reparameterize import Network

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from softprompt.library.library import Library
    from softprompt.prompts.prompt import SoftPrompt
    from softprompt.registry.gate import Rival
    from softprompt.registry.records import Version


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
    stopped: bool = False
    """Whether something else than its steps has failed, so that no more are of use; not so when it is taken up again."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row for each validation: step, learning rate, training loss, value, validation loss."""
    _losses: list[float] = field(default_factory=list)
    _worse: int = 0
    """Validations since the best one that were worse by the metric."""
    _shuffled: tuple[int, list[int]] | None = None

    @property
    def config(self) -> TaskConfig:
        """Its hyperparameters."""
        return self.task.config

    @cached_property
    def objective(self) -> Objective[Any]:
        """What it is trained for."""
        return OBJECTIVES[self.config.objective_name]

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
        going = self.failure is None and not self.dropped and not self.stopped
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
        elif report.value < self.best.value or report.value >= TOP:
            self._worse += 1

    @property
    def rate_before(self) -> float:
        """Learning rate of the step just done."""
        return rate_at(self.config, max(0, self.step - 1), self.total)

    def state(self) -> dict[str, Any]:
        """Everything that its next step, and its end, depend on, but for its place in the bank."""
        best = None
        if self.best is not None:
            best = {name: value for name, value in vars(self.best).items() if name != "predictions"}
        return {name: getattr(self, name) for name in _STATE} | {"best": best, "best_PD": self.best_PD}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.best = Report(**state["best"], predictions=[]) if state["best"] is not None else None
        self.best_PD = state["best_PD"]


_STATE = ("step", "loss", "best_step", "failure", "dropped", "history", "_losses", "_worse")


@dataclass(frozen=True)
class Tuned:
    """A tuned prompt, with its scores on the test split."""

    prompt: SoftPrompt
    report: Report
    version: int | None
    """Its number in the library; None when it was not published."""
    seconds: float
    """Wall-clock time from the start of the session, whose prompts share it, until this one was published."""
    truncated: int
    """Inputs that were cut to fit the context, over all splits."""
    answers_cut: int
    """Answers that were cut to `max_new_tokens`, over all splits."""
    frozen: int
    """Weights of the base."""
    rows: tuple[int, int, int]
    """Of training, validation and test."""
    history: list[dict[str, float]]
    """A row for each validation: step, learning rate, training loss, value, validation loss."""
    live: Rival | None = None
    """What the task's bare name meant before this one was published."""
    production: Rival | None = None
    """What its `production` alias points to."""

    @classmethod
    def of(
        cls,
        member: Member,
        prompt: SoftPrompt,
        report: Report,
        version: Version | None,
        beside: tuple[Rival | None, Rival | None],
        frozen: int,
        seconds: float,
    ) -> Tuned:
        """What came of a member; `beside` are the versions that were live and in production."""
        run, number = member.run, version.number if version is not None else None
        rows, cut = (len(run.train), len(run.validation), len(member.test)), (member.truncated, member.answers_cut)
        return cls(prompt, report, number, seconds, *cut, frozen, rows, run.history, *beside)

    @property
    def warnings(self) -> list[str]:
        """What its scores give reason to say, its own and beside what was there before."""
        card, found = self.prompt.card, remarks_on_scores(self.prompt.card.metric, self.prompt.card.metrics)
        if self.report.unfinished:
            found.append(
                f"{self.report.unfinished} of {self.report.rows} answers ran into max_new_tokens ({card.max_new_tokens}) "
                "before their end; raise it, or train longer"
            )
        if self.live is not None and (self.live.worse or self.live.same_rows is False):
            words = f"{self.live.comparison} (version {self.live.version}, which was live)"
            if self.production is None:
                words += (
                    f"; {card.task!r} alone means this one now, until `softprompt promote {card.task}@{self.live.version}`"
                )
            found.append(words)
        return found

    def __repr__(self) -> str:
        number = "" if self.version is None else f"@{self.version}"
        score = f"{self.report.metric} {self.report.value:.4g} on {self.report.rows} rows"
        return f"Tuned({self.prompt.card.task}{number}, {score}, digest {self.prompt.digest[:12]})"

    @property
    def moved(self) -> float:
        """Distance from the start relative to the start's length (L2)."""
        return self.prompt.card.metrics["moved"]

    def row(self) -> dict[str, Any]:
        """One flat row, as the command prints it."""
        card = self.prompt.card
        trainable = card.num_virtual_tokens * card.token_dim
        train, validation, test = self.rows
        return {
            "task": card.task,
            "version": self.version,
            "digest": self.prompt.digest,
            "metric": card.metric,
            **{name: card.metrics.get(name) for name in ("value", "stderr", "rows")},
            **{name: card.metrics.get(name) for one in (*BASELINES, "validation") for name in (one, f"{one}_stderr")},
            "steps": card.recipe["steps"],
            "best_step": card.recipe["best_step"],
            "seconds": round(self.seconds, 2),
            "prompt_bytes": len(self.prompt.to_bytes()),
            "trainable": trainable,
            "frozen": self.frozen,
            "total": self.frozen + trainable,
            "truncated": self.truncated,
            "answers_cut": self.answers_cut,
            "unfinished": self.report.unfinished,
            "train_rows": train,
            "validation_rows": validation,
            "test_rows": test,
            "moved": self.moved,
            "live": self.live and vars(self.live),
            "production": self.production and vars(self.production),
            "warnings": self.warnings,
        }


Also = Callable[["Connection", "Version", "Member", "SoftPrompt"], object]
"""What is to be done in the transaction that publishes a member's prompt; where it raises, nothing is published."""


@dataclass(eq=False)
class Member:
    """One task of a session, on its way from rows to a published prompt."""

    task: Task
    library: Library | None
    """Where its prompt is published; without one nothing is kept."""
    publishes: bool = True
    """Whether it is judged and published by itself when its run ends."""
    also: Also | None = None
    salt: str = ""
    """Tells it apart from equal tasks in a checkpoint."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """What joins the recipe in its prompt's card."""
    run: Run = field(init=False, repr=False)
    """Known once it is prepared, as are the two below."""
    test: Examples = field(init=False, repr=False)
    key: str = field(init=False, default="")
    """Names its run in a checkpoint: equal for equal tasks, recipes, rows and bases."""
    id: str = field(init=False, default="")
    """Names its run for good, in the checkpoint and in the registry: so it is published once."""
    baselines: dict[str, float] | None = field(init=False, default=None, repr=False)
    resumed: bool = field(init=False, default=False)
    """Whether it goes on from a checkpoint."""
    prepared: bool = field(init=False, default=False)
    ended: bool = field(init=False, default=False)
    """Whether it takes no more steps, for whatever reason."""
    tuned: Tuned | None = field(init=False, default=None, repr=False)
    """What came of it."""
    error: Exception | None = field(init=False, default=None)
    """Why nothing did."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, but for its place in the bank."""
        return {"id": self.id, "baselines": self.baselines, "run": self.run.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.id, self.baselines = state["id"], state["baselines"]
        self.run.load_state(state["run"])

    @property
    def truncated(self) -> int:
        """Inputs that were cut to fit the context, over all splits."""
        return sum(split.truncated for split in self._splits)

    @property
    def answers_cut(self) -> int:
        """Answers that were cut to `max_new_tokens`, over all splits."""
        return sum(split.answers_cut for split in self._splits)

    @property
    def _splits(self) -> tuple[Examples, ...]:
        return self.run.train, self.run.validation, self.test
