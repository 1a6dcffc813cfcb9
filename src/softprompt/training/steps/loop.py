"""The training loop: many prompts, one frozen base, one mixed batch a step, by one process or several.

Several processes train one bank where `accelerate launch` (or torchrun) started them: each runs a share of every step's
rows, and only the prompts' gradient crosses the wire, `K*P*D + K` numbers a step. All hold the same bank and take the same
steps, because they add the same sums. The first process alone judges, keeps checkpoints, publishes and speaks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import ConfigError, TrainingError
from softprompt.evaluation.trials import Report, Trial, answer, report_tuned, result_of
from softprompt.model.architecture import Architecture, within_one_owner
from softprompt.model.fused import Fused, pays
from softprompt.model.memory import TokenBudget
from softprompt.model.splice import Stack, stack_padded, stack_prompts, with_front
from softprompt.progress import Silent
from softprompt.training.steps.bank import Bank, Banks
from softprompt.training.steps.forward import Example, budget_on, losses_and_gradient
from softprompt.training.steps.run import Run

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
    the step is done again. Chunks change neither losses nor gradients but for rounding, so nothing of the recipe changes.

    On a base that is batch invariant each prompt takes its step alone, in a bank of its own, and what its bank of before
    held of its neighbours is without influence on any bit."""

    def __init__(
        self, architecture: Architecture, *, group: Group | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        """With a group of several processes each runs its share of every step; `warn` hears of chunks that are halved.

        Raises:
            ConfigError: several processes were to train on a base that is batch invariant.
        """
        self._warn = warn or Silent().warn
        self._architecture, self._base = within_one_owner(architecture), architecture.base
        self._group = group or Group()
        if self._base.batch_invariant and self._group.world > 1:
            raise ConfigError(
                f"{self._group.world} processes add up their shares of a step in an order that goes by the whole bank, and "
                "the last bits go with it; leave out --batch-invariant, or train in one process"
            )
        self._fused = Fused(self._base, self._warn)
        self._engine = OfflineEngine(architecture, warn=self._warn)
        self._budget = self._full_budget()

    def _full_budget(self) -> TokenBudget:
        advice = "use a smaller base or dtype, or shorter inputs"
        device = self._base.device
        return TokenBudget(budget_on(device), device, self._warn, refusal=TrainingError, advice=advice, runs="steps")

    def step(self, bank: Bank | Banks, runs: Sequence[Run]) -> list[int]:
        """Take a step of every run that wants another, validate those that are due; the places of those that took part, none
        when all have ended. A run whose loss or prompt is no number fails, and stops alone."""
        self._judge_starts(runs)
        self._sample(bank, runs)
        active = self.take(bank, runs)
        self._validate(bank, runs, [place for place in active if runs[place].failure is None and runs[place].validates])
        return active

    def _sample(self, bank: Bank | Banks, runs: Sequence[Run]) -> None:
        """Let the prompts of runs that look for unwanted answers write some, each alone, before a step where that is due."""
        for place, run in enumerate(runs):
            if run.config.unwanted_patterns and run.running and run.own_answers.due(run.step):
                run.own_answers.took(
                    self._group.from_first(partial(self._written, run, self._prompt(bank, place))), run.targets
                )

    def _written(self, run: Run, prompt_PD: Tensor) -> dict[str, Any]:
        """What a run's prompt writes to rows that are coming."""
        return result_of(run.own_answers.sample(self._engine, prompt_PD, run.coming, run.step))

    def take(self, bank: Bank | Banks, runs: Sequence[Run]) -> list[int]:
        """The same without validations."""
        active = [place for place, run in enumerate(runs) if run.running]
        if self._base.batch_invariant:
            for place in active:
                self._budget = self._full_budget()  # a neighbour that was too long has no say
                one = bank.alone(place)
                self._take_together(one, [runs[place]], [0])
                bank.load_state(place, one.state(0))
            return active
        for part, places, rows in bank.parts(active):
            self._take_together(part, [runs[place] for place in places], rows)
        return active

    def _take_together(self, bank: Bank, runs: Sequence[Run], active: Sequence[int]) -> None:
        """A step of runs in one batch; `active` are their places in the bank."""
        examples = [example for row, run in enumerate(runs) for example in run.batch(row)]
        lengths = [bank.lengths[place] for place in active]
        vectors_KPD = bank.vectors_KPD[active, -max(lengths) :]  # no wider for those that have ended
        recompute = any(run.config.gradient_checkpointing for run in runs)
        compiles = any(map(self._compiles, runs)) and self._fused.works
        with self._fused.within() if compiles else nullcontext():
            if any(example.front for example in examples):
                varies = [run.task.form.front_varies for run in runs]
                made = self._placed(vectors_KPD, lengths, examples, varies, recompute)
            else:
                stack = stack_padded(vectors_KPD, lengths)
                made = self._within_memory(stack, self._group.share(examples), recompute)
        losses_K, gradient_KPD = self._group.add(*made)

        finite = (gradient_KPD.flatten(1).isfinite().all(1) & losses_K.isfinite()).tolist()
        good = [row for row, fine in enumerate(finite) if fine]
        for row in set(range(len(active))) - set(good):
            run = runs[row]
            run.fail(f"the loss is no number at step {run.step + 1} with learning rate {run.rate:.3g}")
        bank.step([active[row] for row in good], gradient_KPD[good], [runs[row].rate for row in good])
        losses = losses_K.tolist()
        for row in good:
            runs[row].took_step(losses[row], compiled=compiles)

    def _placed(
        self,
        vectors_KPD: Tensor,
        lengths: Sequence[int],
        examples: Sequence[Example],
        varies: Sequence[bool],
        recompute: bool,
    ) -> tuple[Tensor, Tensor]:
        """Losses and gradients where text stands before prompts: what stands before all rows of one is run with it, once;
        rows of `varies`, with text of their own, are run one by one behind prompts of their own, and share nothing."""
        losses_K, gradient_KPD = vectors_KPD.new_zeros(len(lengths)), torch.zeros_like(vectors_KPD)
        for apart in (False, True):
            some = [example for example in examples if varies[example.which] is apart]
            places = list(dict.fromkeys((example.which, tuple(example.front)) for example in some))
            if not places:
                continue
            numbers = {place: number for number, place in enumerate(places)}
            prompts = [with_front(self._base, front, vectors_KPD[k, -lengths[k] :]) for k, front in places]
            some = [replace(one, which=numbers[one.which, tuple(one.front)]) for one in some]
            shared = False if apart else None
            losses_N, gradient_NPD = self._within_memory(stack_prompts(prompts), self._group.share(some), recompute, shared)
            owner_N = torch.tensor([k for k, _ in places], device=losses_N.device)
            losses_K.index_add_(0, owner_N, losses_N)
            own_NPD = F.pad(gradient_NPD, (0, 0, max(0, max(lengths) - gradient_NPD.shape[1]), 0))[:, -max(lengths) :]
            gradient_KPD.index_add_(0, owner_N, own_NPD)
        return losses_K, gradient_KPD * stack_padded(vectors_KPD, lengths).mask_KP[:, :, None]

    def _compiles(self, run: Run) -> bool:
        asked = run.config.torch_compile
        return pays(self._base, run.total * run.tokens) if asked is None else asked

    def _judge_starts(self, runs: Sequence[Run]) -> None:
        """Judge the starts that may be kept on the validation rows, before the first step; one that gives no numbers is
        none to keep. No fold has trained yet, so the whole's start answers all rows."""
        due = [run for run in runs if run.start_due]
        trials = [Trial(run.task.form, run.start_PD.to(self._base.dtype), run.validation, keeps_chances=True) for run in due]
        if not due:
            return
        answered = self._group.from_first(lambda: result_of(answer(self._engine, trials)))
        for run, trial, given in zip(due, trials, answered, strict=True):
            report = report_tuned(trial, given, fixed=run.config.threshold is not None)
            if trial.vectors_PD.isfinite().all() and not math.isnan(report.loss):
                run.took_start(report)

    def _validate(self, bank: Bank | Banks, runs: Sequence[Run], due: Sequence[int]) -> None:
        """Judge runs that are due on their validation rows, and let them know."""
        for place, (report, prompt_PD) in self.judge(bank, runs, due).items():
            run = runs[place]
            if report is None:  # beyond the numbers that the base's dtype can hold
                run.fail(f"it gives no numbers after step {run.step} with learning rate {run.rate_before:.3g}")
            else:
                run.took_validation(report, prompt_PD)

    def judge(
        self, bank: Bank | Banks, runs: Sequence[Run], which: Sequence[int]
    ) -> dict[int, tuple[Report | None, Tensor]]:
        """Of some runs, by their places, what their prompts are worth on their validation rows as they are now, and the
        prompts; one with folds is judged by its folds, each on the rows that it has not seen. No report is of a prompt that
        gives no numbers. Nothing of it enters the runs."""
        if not which:
            return {}
        judges = {place: [runs.index(fold) for fold in runs[place].folds] or [place] for place in which}
        places = [place for own in judges.values() for place in own]
        prompts = {place: self._prompt(bank, place) for place in {*which, *places}}
        trials = {
            place: Trial(runs[place].task.form, prompt_PD.to(self._base.dtype), runs[place].validation, keeps_chances=True)
            for place, prompt_PD in prompts.items()
        }
        answered = self._group.from_first(lambda: result_of(answer(self._engine, [trials[place] for place in places])))
        answers = dict(zip(places, answered, strict=True))
        judged: dict[int, tuple[Report | None, Tensor]] = {}
        for place, own in judges.items():
            run, trial = runs[place], trials[place]
            given = [one for judge in own for one in answers[judge]]
            if run.folds:
                held = [row for judge in own for row in runs[judge].held]
                given = [given[at] for at in sorted(range(len(held)), key=held.__getitem__)]
            report = report_tuned(trial, given, fixed=run.config.threshold is not None)
            finite = all(trials[one].vectors_PD.isfinite().all() for one in (place, *own)) and not math.isnan(report.loss)
            judged[place] = (report if finite else None, prompts[place])
        return judged

    def _prompt(self, bank: Bank | Banks, place: int) -> Tensor:
        return bank.alone(place).prompt(0) if self._base.batch_invariant else bank.prompt(place)

    def _within_memory(
        self, stack: Stack, examples: Sequence[Example], recompute: bool, shared: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        def run() -> tuple[Tensor, Tensor]:
            budget = self._budget.tokens
            return losses_and_gradient(
                self._architecture, stack, examples, token_budget=budget, shared=shared, recompute=recompute
            )

        while (made := self._budget.attempt(run)) is None:
            longest = max(example.length for example in examples)
            self._budget.halve(self._budget.tokens, longest, single=self._budget.tokens <= longest)
        return made
