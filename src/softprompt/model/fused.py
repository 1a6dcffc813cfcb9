"""Norms and feed-forward blocks compiled once for all layers, for the training step.

They work on each token for itself, and most of what they do moves memory: compiled, that is done in one pass over it. What
mixes tokens stays as it is. Which shapes come makes no difference to what is compiled, for tokens are laid end to end first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from softprompt.bases.base import FrozenBase

BACKEND: Any = "inductor"
_SIMPLE = (nn.Linear, Conv1D)
"""Children with weights of a feed-forward block that is compiled."""
WORTH = 10**13
"""Weights times tokens of a run that is worth it: a few minutes of a CPU, of which compiling saves a fifth and costs ten
seconds."""


class Fused:
    """The compiled parts of a base."""

    def __init__(self, base: FrozenBase, warn: Callable[[str], None]) -> None:
        """`warn` hears, once, why nothing is compiled where that was wanted."""
        self._base, self._warn = base, warn

    @cached_property
    def _parts(self) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        """What is compiled, and what takes its place; nothing where no compiler works, or bits must not go by the past."""
        if self._base.batch_invariant:
            self._warn(
                "torch_compile is left out: what is compiled goes by shapes met before, and the base is batch invariant"
            )
            return []
        chosen = [part for part in self._base.model.modules() if _is_norm(part) or _is_block(part)]
        if not chosen or not self._compiles():
            return []
        return [(part, _by_token(torch.compile(part.forward, dynamic=True, backend=BACKEND))) for part in chosen]

    @property
    def works(self) -> bool:
        """Whether anything can be compiled; found out by the first to ask, which takes a second."""
        return bool(self._parts)

    def _compiles(self) -> bool:
        try:
            torch.compile(lambda some_N: some_N.sin() + 1, backend=BACKEND)(torch.ones(8, device=self._base.device))
        except Exception as error:  # no compiler, no headers, no folder to write to, an old processor: all the same here
            reason = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"layers are not compiled, which makes training slower and nothing else; torch says: {reason[:200]}")
            return False
        return True

    @contextmanager
    def within(self) -> Iterator[None]:
        """Within, the base runs its compiled parts."""
        for part, compiled in self._parts:
            part.forward = compiled
        try:
            # A fault of the compiler's leaves a part as it was. Kinds of calls: with and without a gradient, of one token.
            with torch._dynamo.config.patch(suppress_errors=True, recompile_limit=64):
                yield
        finally:
            for part, _ in self._parts:
                del part.forward


def _is_norm(part: nn.Module) -> bool:
    return type(part).__name__.endswith("Norm") and not any(part.children()) and _takes_one(part)


def _takes_one(part: nn.Module) -> bool:
    return len(inspect.signature(part.forward).parameters) == 1


def _is_block(part: nn.Module) -> bool:
    """Whether it is a feed-forward block of linear layers as torch has them, which is no mixture of experts."""
    weighted = [child for child in part.children() if any(True for _ in child.parameters())]
    own = any(True for _ in part.parameters(recurse=False))
    simple = bool(weighted) and all(type(child) in _SIMPLE for child in weighted)
    return type(part).__name__.endswith("MLP") and simple and not own and _takes_one(part)


def _by_token(compiled: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(hidden: Tensor) -> Tensor:
        return compiled(hidden.flatten(0, -2)).view(hidden.shape)

    return run


def pays(base: FrozenBase, tokens: float) -> bool:
    """Whether so many tokens of training are enough for the time that compiling takes. By the work alone, so that the same
    training does the same every time."""
    return base.device.type == "cpu" and not base.batch_invariant and base.params * tokens > WORTH
