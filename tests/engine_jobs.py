"""Helpers for tests of engines: jobs, where their results go, and the slow obvious twin of a row."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.protocol import NO_PROMPT, Engine, Piece, Result, Vectors
from softprompt.errors import EngineError
from softprompt.model.prefix import logits_at
from softprompt.model.splice import stack_prompts

PATIENCE = 60
"""Seconds that a test waits for a result before it fails."""


def some_vectors(base: FrozenBase, rows: int, seed: int) -> Vectors:
    """A random prompt; none where it has no rows."""
    if not rows:
        return NO_PROMPT
    generator = torch.Generator().manual_seed(seed)
    return Vectors(f"{seed:04x}-{rows}", torch.randn(rows, base.width, generator=generator) * 0.5)


class Inbox:
    """Takes the results of one job."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.began, self.done = threading.Event(), threading.Event()

    def __call__(self, result: Result) -> None:
        assert not self.done.is_set(), "nothing may come after the last result"
        self.results.append(result)
        self.began.set()
        if not isinstance(result, Piece) or result.finish:
            self.done.set()

    def wait(self) -> Inbox:
        assert self.done.wait(PATIENCE), "no last result came"
        return self

    @property
    def last(self) -> Result:
        return self.wait().results[-1]

    @property
    def pieces(self) -> list[Piece]:
        """All pieces; raises the error where there was one."""
        if isinstance(self.last, EngineError):
            raise self.last
        return [result for result in self.results if isinstance(result, Piece)]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> list[int]:
        """Where log-probabilities were asked for."""
        return [token.id for piece in self.pieces for token in piece.tokens]


def idle(engine: Engine) -> None:
    """Wait until nothing runs and nothing waits."""
    for _ in range(PATIENCE * 100):
        status = engine.status()
        if not status.running and not status.waiting:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the engine never came to rest")


@torch.no_grad()
def gaps_to_best(base: FrozenBase, prompt: Vectors, ids: Sequence[int], told: Sequence[int]) -> list[float]:
    """How far each token that a row told is below the best logit there: all 0 where the row is greedy. By the row alone,
    prompt and all, without any keys and values kept."""
    vectors_PD = torch.zeros(0, base.width) if prompt.vectors_PD is None else prompt.vectors_PD
    stack = stack_prompts([vectors_PD.to(base.dtype)])
    keep = range(len(ids) - 1, len(ids) + len(told) - 1)
    logits_LV = logits_at(base, stack, None, [0], [[*ids, *told[:-1]]], [list(keep)]).float()
    chosen_L = logits_LV.gather(1, torch.tensor(told)[:, None])[:, 0]
    gaps: list[float] = (logits_LV.amax(1) - chosen_L).tolist()
    return gaps
