"""Helpers for tests of engines: jobs, where their results go, and the slow obvious twin of a row."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.engines.protocol import NO_PROMPT, Engine, Piece, Result, Vectors
from softprompt.errors import EngineError
from softprompt.evaluation.trials import result_of
from softprompt.model.architecture import architecture_of
from softprompt.model.kinds.causal import Causal
from softprompt.model.lines import Ids, Tails
from softprompt.model.prefix import Prefix
from softprompt.model.splice import Stack, stack_prompts

PATIENCE = 60
"""Seconds that a test waits for a result before it fails."""


def some_vectors(base: FrozenBase, rows: int, seed: int) -> Vectors:
    """A random prompt; none where it has no rows."""
    if not rows:
        return NO_PROMPT
    generator = torch.Generator().manual_seed(seed)
    return Vectors(f"{seed:04x}-{rows}", torch.randn(rows, base.width, generator=generator) * 0.5)


def score_offline(base: FrozenBase, *jobs: Any, **more: Any) -> list[list[float]]:
    """Scores by an offline engine of its own."""
    return result_of(OfflineEngine(architecture_of(base)).score(*jobs, **more))


def generate_offline(base: FrozenBase, *jobs: Any, **more: Any) -> list[list[int]]:
    """Continuations by an offline engine of its own."""
    return result_of(OfflineEngine(architecture_of(base)).generate(*jobs, **more))


class Starved(Causal):
    """A base with memory for so many rows, and so many prompts, of a pass: beyond that it fails as the allocator does."""

    def __init__(self, base: FrozenBase, *, rows: int = 1 << 30, prompts: int = 1 << 30) -> None:
        super().__init__(base)
        self.rows, self.prompts = rows, prompts
        self.lots: list[tuple[int, int]] = []
        """Prompts and columns of each pass over prompts."""

    def compute_prefix(self, stack: Stack) -> Prefix:
        self.lots.append((len(stack.vectors_KPD), stack.columns))
        allocate(len(stack.vectors_KPD) <= self.prompts)
        return super().compute_prefix(stack)

    def logits_behind(
        self, stack: Stack, prefix: Prefix | None, which: Sequence[int], inputs: Sequence[Ids], tails: Sequence[Tails]
    ) -> torch.Tensor:
        allocate(len(which) <= self.rows)
        return super().logits_behind(stack, prefix, which, inputs, tails)

    def run_cached(
        self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Any, mask_BS: torch.Tensor
    ) -> torch.Tensor:
        allocate(len(ids_BT) <= self.rows)
        return super().run_cached(ids_BT, positions_BT, cache, mask_BS)


def allocate(fits: bool) -> None:
    """Fail where something does not fit the memory."""
    if not fits:
        torch.empty(1 << 60, dtype=torch.uint8)  # really fails, with the allocator's own words


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
def gaps_to_best(base: FrozenBase, prompt: Vectors, ids: Sequence[int], answer: Sequence[int]) -> list[float]:
    """How far each token of a row's answer is below the best logit there: all 0 where the row is greedy. By the row alone,
    prompt and all, without any keys and values kept."""
    stack = stack_prompts([prompt.on(base)])
    logits_LV = architecture_of(base).logits_behind(stack, None, [0], [ids], [[answer[:-1]]]).float()
    chosen_L = logits_LV.gather(1, torch.tensor(answer)[:, None])[:, 0]
    gaps: list[float] = (logits_LV.amax(1) - chosen_L).tolist()
    return gaps
