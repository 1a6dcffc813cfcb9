"""The training loop: many prompts, one frozen base, one mixed batch a step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from torch import Tensor

from softprompt.engines.offline import OfflineEngine
from softprompt.errors import TrainingError
from softprompt.evaluation.evaluate import Report, Trial, evaluate, result_of
from softprompt.model.architecture import Architecture
from softprompt.model.memory import TokenBudget
from softprompt.model.splice import Stack, stack_padded
from softprompt.progress import Progress, Silent
from softprompt.training.bank import Bank
from softprompt.training.checkpoint import Keeper
from softprompt.training.forward import TOKEN_BUDGET, Example, losses_and_gradient
from softprompt.training.parallel import Group
from softprompt.training.run import Run

OnStep = Callable[[Sequence[Run]], None]
"""Called after each step with the runs that took it; with none when training goes on from a checkpoint."""


def train_bank(
    architecture: Architecture,
    runs: Sequence[Run],
    on_step: OnStep | None = None,
    keeper: Keeper | None = None,
    progress: Progress | None = None,
    group: Group | None = None,
) -> None:
    """Train all runs to their ends. Each keeps its best vectors by validation; a run that fails stops alone.

    With a keeper it goes on from the last checkpoint, and ends as it would have without the interruption. With a group
    of several processes each runs its share of every step.
    """
    group = group or Group()
    progress = progress or Silent()
    base = architecture.base
    engine = OfflineEngine(architecture, warn=progress.warn)
    stepper = _Stepper(architecture, progress, group)
    bank = Bank([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    if keeper is not None and keeper.restore(bank, runs, group) and on_step:
        on_step([])
    while active := [index for index, run in enumerate(runs) if run.running]:
        examples = [example for place, index in enumerate(active) for example in runs[index].batch(place)]
        stack = stack_padded(bank.vectors_KPD[active], [bank.lengths[index] for index in active])
        recompute = any(runs[index].config.gradient_checkpointing for index in active)
        losses_K, gradient_KPD = stepper.run(stack, examples, recompute)

        finite = (gradient_KPD.flatten(1).isfinite().all(1) & losses_K.isfinite()).tolist()
        good = [place for place, fine in enumerate(finite) if fine]
        for place in set(range(len(active))) - set(good):
            run = runs[active[place]]
            run.failure = f"the loss is no number at step {run.step + 1} with learning rate {run.rate:.3g}"
        bank.step([active[p] for p in good], gradient_KPD[good], [runs[active[p]].rate for p in good])

        for place in good:
            runs[active[place]].took_step(float(losses_K[place]))
        due = [active[place] for place in good if runs[active[place]].validates]
        if due:
            trials = [Trial(runs[i].task.form, bank.prompt(i).to(base.dtype), runs[i].validation) for i in due]
            reports = group.from_first(functools.partial(_judge, engine, trials))
            for index, trial, report in zip(due, trials, reports, strict=True):
                run = runs[index]
                if _overflows(trial, report):
                    run.failure = f"it gives no numbers after step {run.step} with learning rate {run.rate_before:.3g}"
                else:
                    run.took_validation(report, bank.prompt(index))
        if on_step:
            on_step([runs[index] for index in active])
        if keeper is not None and group.leads:
            keeper.save_if_due(bank, runs)


def _judge(engine: OfflineEngine, trials: Sequence[Trial]) -> list[Report]:
    return result_of(evaluate(engine, trials))


def _overflows(trial: Trial, report: Report) -> bool:
    """Whether a prompt has left the numbers that the base's dtype can hold, by its vectors or by what they lead to."""
    return not trial.vectors_PD.isfinite().all() or (trial.form.labels is not None and math.isnan(report.loss))


class _Stepper:
    """Runs steps in chunks that fit the memory: when it runs out, chunks are halved and the step is done again. Chunks
    change neither losses nor gradients but for rounding, so nothing of the recipe changes."""

    def __init__(self, architecture: Architecture, progress: Progress, group: Group) -> None:
        self._architecture = architecture
        self._group = group
        self._budget = TokenBudget(TOKEN_BUDGET, architecture.base.device, progress.warn, runs="steps", refusal=_refusal)

    def run(self, stack: Stack, examples: Sequence[Example], recompute: bool) -> tuple[Tensor, Tensor]:
        """Mean losses (K) and gradients (K x P x D) of a step, over the rows of all processes."""
        examples = self._group.share(examples)

        def step() -> tuple[Tensor, Tensor]:
            budget = self._budget.tokens
            return losses_and_gradient(self._architecture, stack, examples, token_budget=budget, recompute=recompute)

        while (made := self._budget.attempt(step)) is None:
            longest = max(example.length for example in examples)
            self._budget.halve(self._budget.tokens, longest, single=self._budget.tokens <= longest)
        return self._group.add(*made)


def _refusal(message: str) -> TrainingError:
    return TrainingError(f"{message}; use a smaller base or dtype, or shorter inputs")
