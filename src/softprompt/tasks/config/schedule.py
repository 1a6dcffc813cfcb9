"""Learning-rate schedules, by the names of Hugging Face. No torch."""

from __future__ import annotations

import math

from softprompt.tasks.config.config import TaskConfig
from softprompt.text import plural

DEFAULT_EPOCHS = 3
DEFAULT_STEPS = 200
"""A prompt starts far from where it must go: with a few hundred rows three epochs would be over before it has arrived."""
FEW_ROWS, FEW_STEPS = 64, 100
"""With so many rows or fewer these steps are enough: on 16 rows twice as many were worse (benchmarks/LOG.md)."""


def total_steps(config: TaskConfig, rows: int) -> int:
    """Optimiser steps of a run over so many rows."""
    if config.max_steps is not None:
        return config.max_steps
    if config.num_train_epochs is None:
        return max(FEW_STEPS if rows <= FEW_ROWS else DEFAULT_STEPS, DEFAULT_EPOCHS * steps_per_epoch(config, rows))
    return max(1, math.ceil(config.num_train_epochs * steps_per_epoch(config, rows)))


def told_few(rows: int) -> str | None:
    """What is to be said of a training on so many rows, where they are few."""
    if rows > FEW_ROWS:
        return None
    return (
        f"{plural(rows, 'training row')}; with {FEW_ROWS} or fewer a text prompt may be as good: compare with the zero-shot "
        "score"
    )


def steps_per_epoch(config: TaskConfig, rows: int) -> int:
    """Batches that cover the rows once."""
    return math.ceil(rows / config.per_device_train_batch_size)


def rate_at(config: TaskConfig, step: int, total: int) -> float:
    """Learning rate of a step, counted from 0: a linear warm-up, then as `lr_scheduler_type` says.
    The config must have a rate."""
    assert config.learning_rate is not None
    warmup = config.warmup_steps if config.warmup_steps is not None else math.ceil(config.warmup_ratio * total)
    if config.lr_scheduler_type == "constant":
        return config.learning_rate
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_scheduler_type == "constant_with_warmup":
        return config.learning_rate
    done = (step - warmup) / max(1, total - warmup)
    if config.lr_scheduler_type == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (1 - done)
