"""What a tuned prompt must beat on its test split: the most frequent answer, a text prompt, and itself before training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.bases.base import FrozenBase
from softprompt.errors import ContextError
from softprompt.evaluation.metrics import measure
from softprompt.evaluation.trials import Report, Trial
from softprompt.tasks.task import Examples, Task


def baseline_trials(base: FrozenBase, task: Task, start_PD: Tensor, test: Examples) -> tuple[list[Trial], str | None]:
    """Trials of the text prompt and of the prompt before training, and a warning where the text prompt and a row do not
    both fit the context: rows stand alone then.

    Raises:
        DataError: a row is wrong.
    """
    text, warning = task.form.zero_shot_text(), None
    try:
        asked = task.encode(base, task.test, 0, split="test", prepend=text + "\n" if text else "")
    except ContextError:
        warning = f"{task.name}: the text prompt of the zero-shot baseline does not fit the context, and is left out"
        asked = task.encode(base, task.test, 0, split="test")
    nothing_PD = torch.zeros(0, base.width, dtype=base.dtype)
    return [Trial(task.form, nothing_PD, asked), Trial(task.form, start_PD.to(base.dtype), test)], warning


def baselines_of(task: Task, test: Examples, reports: Sequence[Report]) -> dict[str, float]:
    """The scores of all three, from the reports of those trials."""
    zero_shot, untrained = reports
    constant = [task.majority()] * len(test)
    return {
        "majority": measure(task.form.metric, constant, test.answers),
        "zero_shot": zero_shot.value,
        "untrained": untrained.value,
    }
