"""Gradient checkpointing that keeps the prompt.

The library's own, in train mode, drops the cache that a layer reads, and the prompt with it, with only a warning. Here
the base stays in eval mode, its layers read keys and values that never grow, and each is run again on the way back.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from softprompt.bases.base import FrozenBase
from softprompt.errors import TrainingError

RECOMPUTES: ContextVar[bool] = ContextVar("recomputes", default=False)
"""Whether layers keep nothing just now."""


@contextmanager
def recomputing(base: FrozenBase) -> Iterator[None]:
    """Within, the base's layers keep no activations of their own; backward passes must happen within too.

    Raises:
        TrainingError: the base's architecture has no layers that can be run again.
    """
    layers = [module for module in base.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(
            f"{base.name} ({base.model.config.model_type}) has no layers that can be run again; "
            "leave out gradient_checkpointing"
        )
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
    before = RECOMPUTES.set(True)
    try:
        yield
    finally:
        RECOMPUTES.reset(before)
        for layer in layers:
            del layer.forward
