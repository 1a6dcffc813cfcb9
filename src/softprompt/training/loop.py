"""The training loop: many prompts, one frozen base, one mixed batch a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from softprompt.base import FrozenBase
from softprompt.engines.local import LocalEngine
from softprompt.evaluation import Trial, evaluate
from softprompt.splice import stack_padded
from softprompt.training.bank import Bank
from softprompt.training.checkpoint import Keeper
from softprompt.training.forward import losses_and_gradient
from softprompt.training.run import Run

OnStep = Callable[[Sequence[Run]], None]
"""Called after each step with the runs that took it; with none when training goes on from a checkpoint."""


def train_bank(base: FrozenBase, runs: Sequence[Run], on_step: OnStep | None = None, keeper: Keeper | None = None) -> None:
    """Train all runs to their ends. Each keeps its best vectors by validation; a run that fails stops alone.

    With a keeper it goes on from the last checkpoint, and ends as it would have without the interruption.
    """
    engine = LocalEngine(base)
    bank = Bank([run.start_PD for run in runs], [run.rule for run in runs], base.device)
    if keeper is not None and keeper.restore(bank, runs) and on_step:
        on_step([])
    while active := [index for index, run in enumerate(runs) if run.running]:
        examples = [example for place, index in enumerate(active) for example in runs[index].batch(place)]
        stack = stack_padded(bank.vectors_KPD[active], [bank.lengths[index] for index in active])
        losses_K, gradient_KPD = losses_and_gradient(base, stack, examples)

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
            for index, report in zip(due, evaluate(engine, trials), strict=True):
                runs[index].took_validation(report, bank.prompt(index))
        if on_step:
            on_step([runs[index] for index in active])
        if keeper is not None:
            keeper.save_if_due(bank, runs)
