"""The training loop: many prompts, one frozen base, one mixed batch a step, by one process or several.

Several processes train one bank where `accelerate launch` (or torchrun) started them: each runs a share of every step's
rows, and only the prompts' gradient crosses the wire, `K*P*D + K` numbers a step. All hold the same bank and take the same
steps, because they add the same sums. The first process alone judges, keeps checkpoints, publishes and speaks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import TrainingError
from softprompt.evaluation.trials import Report, Trial, judge, result_of
from softprompt.model.architecture import Architecture
from softprompt.model.memory import TokenBudget
from softprompt.model.splice import Stack, stack_padded
from softprompt.progress import Silent
from softprompt.training.bank import Bank
from softprompt.training.forward import TOKEN_BUDGET, Example, losses_and_gradient
from softprompt.training.run import Run

PATIENCE = timedelta(days=1)
"""How long processes wait for each other. The first one judges alone, which can take longer than the ten minutes that NCCL
waits by itself; a process that dies is noticed by the launcher."""

Item = TypeVar("Item")
Value = TypeVar("Value")


def processes_started() -> int:
    """How many processes a launcher has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Group:
    """The processes of one training."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        """Process `rank` of `world`; where there are several, their process group is up."""
        self.rank = rank
        self.world = world

    @classmethod
    def current(cls) -> Group:
        """The group this process was started in: by a launcher that sets WORLD_SIZE, or alone."""
        if processes_started() < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items; together the parts are all of them."""
        return items[self.rank :: self.world]

    def add(self, losses_K: Tensor, gradient_KPD: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over all processes, in one message."""
        if self.world == 1:
            return losses_K, gradient_KPD
        flat = torch.cat([losses_K, gradient_KPD.flatten()])
        torch.distributed.all_reduce(flat)
        return flat[: len(losses_K)], flat[len(losses_K) :].view_as(gradient_KPD)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """A value that the first process makes and all get."""
        if self.world == 1:
            return make()
        box = [make() if self.leads else None]
        torch.distributed.broadcast_object_list(box, src=0)
        value: Value = box[0]  # type: ignore[assignment]
        return value


class Stepper:
    """Takes steps of the running prompts of a bank, in chunks that fit the memory: when it runs out, chunks are halved and
    the step is done again. Chunks change neither losses nor gradients but for rounding, so nothing of the recipe changes."""

    def __init__(
        self, architecture: Architecture, *, group: Group | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        """With a group of several processes each runs its share of every step; `warn` hears of chunks that are halved."""
        warn = warn or Silent().warn
        self._architecture, self._base = architecture, architecture.base
        self._group = group or Group()
        self._engine = OfflineEngine(architecture, warn=warn)
        advice = "use a smaller base or dtype, or shorter inputs"
        device = self._base.device
        self._budget = TokenBudget(TOKEN_BUDGET, device, warn, refusal=TrainingError, advice=advice, runs="steps")

    def step(self, bank: Bank, runs: Sequence[Run]) -> list[int]:
        """Take a step of every run that wants another, validate those that are due; the places of those that took part, none
        when all have ended. A run whose loss or prompt is no number fails, and stops alone."""
        active = [place for place, run in enumerate(runs) if run.running]
        if not active:
            return active
        examples = [example for row, place in enumerate(active) for example in runs[place].batch(row)]
        lengths = [bank.lengths[place] for place in active]
        stack = stack_padded(bank.vectors_KPD[active, -max(lengths) :], lengths)  # no wider for those that have ended
        recompute = any(runs[place].config.gradient_checkpointing for place in active)
        losses_K, gradient_KPD = self._group.add(*self._within_memory(stack, self._group.share(examples), recompute))

        finite = (gradient_KPD.flatten(1).isfinite().all(1) & losses_K.isfinite()).tolist()
        good = [row for row, fine in enumerate(finite) if fine]
        for row in set(range(len(active))) - set(good):
            run = runs[active[row]]
            run.failure = f"the loss is no number at step {run.step + 1} with learning rate {run.rate:.3g}"
        bank.step([active[row] for row in good], gradient_KPD[good], [runs[active[row]].rate for row in good])
        for row in good:
            runs[active[row]].took_step(float(losses_K[row]))
        self._validate(bank, runs, [active[row] for row in good if runs[active[row]].validates])
        return active

    def _validate(self, bank: Bank, runs: Sequence[Run], due: Sequence[int]) -> None:
        if not due:
            return
        trials = [Trial(runs[i].task.form, bank.prompt(i).to(self._base.dtype), runs[i].validation) for i in due]
        reports = self._group.from_first(lambda: result_of(judge(self._engine, trials)))
        for place, trial, report in zip(due, trials, reports, strict=True):
            run = runs[place]
            if _overflows(trial, report):
                run.failure = f"it gives no numbers after step {run.step} with learning rate {run.rate_before:.3g}"
            else:
                run.took_validation(report, bank.prompt(place))

    def _within_memory(self, stack: Stack, examples: Sequence[Example], recompute: bool) -> tuple[Tensor, Tensor]:
        def run() -> tuple[Tensor, Tensor]:
            budget = self._budget.tokens
            return losses_and_gradient(self._architecture, stack, examples, token_budget=budget, recompute=recompute)

        while (made := self._budget.attempt(run)) is None:
            longest = max(example.length for example in examples)
            self._budget.halve(self._budget.tokens, longest, single=self._budget.tokens <= longest)
        return made


def _overflows(trial: Trial, report: Report) -> bool:
    """Whether a prompt has left the numbers that the base's dtype can hold, by its vectors or by what they lead to."""
    return not trial.vectors_PD.isfinite().all() or math.isnan(report.loss)
