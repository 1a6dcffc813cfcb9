"""What a run takes where its task file is silent, by its base and its rows. Whatever is chosen here is told, and kept in the
card."""

from __future__ import annotations

from softprompt.bases.base import FrozenBase
from softprompt.tasks.config import TaskConfig
from softprompt.text import plural
from softprompt.training.run import Run

RATE = 0.45
"""The default learning rate in units of the spread of the base's embeddings: AdamW moves each number of a prompt by about
the rate in a step, and how far that is depends on the numbers there are. Gemma multiplies its embeddings by the root of
their width, so that a rate for Llama is a tenth of what it needs."""


def chosen(config: TaskConfig, base: FrozenBase) -> TaskConfig:
    """A config with nothing left to choose."""
    if config.learning_rate is not None:
        return config
    rate = float(f"{RATE * base.spread * config.learning_rate_multiplier:.3g}")
    return config.model_copy(update={"learning_rate": rate})


def told_recipe(run: Run) -> str:
    """The recipe of a run in words, what was chosen for it among them."""
    config, rows = run.config, min(run.config.per_device_train_batch_size, len(run.train))
    judged, held = plural(len(run.validation), "validation row"), run.task.held_out
    if run.folds:
        judged = f"{len(run.folds)} folds"
    elif len(run.validation) < held:
        judged = f"{len(run.validation)} of {held} validation rows (max_eval_samples)"
    return (
        f"{plural(run.total, 'step')} of {plural(rows, 'row')}, {config.objective_name}, rate {config.learning_rate:g}, "
        f"start {config.initializer}; the best prompt by {judged} is kept"
    )
