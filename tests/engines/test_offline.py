"""The engine of one call: many prompts go through the base in lots, and none without a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines import offline
from softprompt.engines.offline import OfflineEngine
from softprompt.model.splice import Stack
from tests.models import VOCABULARY, make_base

LABELS = ((5,), (6, 7), (8, 9))


def some_jobs(base: FrozenBase) -> dict[str, Any]:
    """Rows of eight prompts in any order, one of them empty; a ninth, much longer, has no row."""
    generator = torch.Generator().manual_seed(3)
    spread = base.embedding.weight.std()
    return {
        "prompts": [torch.randn(n, base.width, generator=generator) * spread for n in (5, 2, 0, 6, 5, 5, 1, 3, 60)],
        "which": [3, 0, 7, 2, 3, 6, 1, 4, 5, 0, 7, 3],
        "inputs": [torch.randint(2, VOCABULARY, (2 + i % 5,), generator=generator).tolist() for i in range(12)],
    }


@pytest.fixture
def lots(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the prompts whose keys and values are there at once, as they are made."""
    seen: list[tuple[int, ...]] = []
    honest = OfflineEngine._prepare

    def prepare(engine: OfflineEngine, prompts: Any) -> Any:
        stack, prefix = honest(engine, prompts)
        seen.append(tuple(stack.vectors_KPD.shape[:2]))
        return stack, prefix

    monkeypatch.setattr(OfflineEngine, "_prepare", prepare)
    return seen


@pytest.mark.parametrize("shared", [True, False])
def test_prompts_in_lots_change_nothing(shared: bool, lots: list[tuple[int, ...]]) -> None:
    base = make_base("llama")
    base = replace(base, _shared_prefix=shared)
    jobs = some_jobs(base)
    done: list[int] = []
    scores = OfflineEngine(base).score(**jobs, labels=[LABELS] * 12)
    told = OfflineEngine(base).generate(**jobs, max_new_tokens=[4] * 12)
    assert lots == [(8, 6)] * 2  # all at once, but for the one without a row
    lots.clear()
    engine = OfflineEngine(base, token_budget=12)
    torch.testing.assert_close(
        engine.score(**jobs, labels=[LABELS] * 12, progress=done.append), scores, rtol=1e-4, atol=1e-4
    )
    assert engine.generate(**jobs, max_new_tokens=[4] * 12) == told
    assert sum(done) == 12
    assert sum(prompts for prompts, _ in lots) == 2 * 8
    assert all(prompts * columns <= 12 for prompts, columns in lots)
    for row, (which, ids) in enumerate(zip(jobs["which"], jobs["inputs"], strict=True)):
        (alone,) = OfflineEngine(base).score([jobs["prompts"][which]], [0], [ids], [LABELS])
        assert scores[row] == pytest.approx(alone, abs=1e-4)


def test_lots_of_prompts_are_halved_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama")
    jobs = some_jobs(base)
    expected = OfflineEngine(base).score(**jobs, labels=[LABELS] * 12)
    honest = offline.compute_prefix

    def hungry(base: FrozenBase, stack: Stack) -> Any:
        if len(stack.vectors_KPD) > 3:
            torch.empty(1 << 60, dtype=torch.uint8)  # really fails, with the allocator's own words
        return honest(base, stack)

    monkeypatch.setattr(offline, "compute_prefix", hungry)
    warned: list[str] = []
    engine = OfflineEngine(base, warn=warned.append)
    torch.testing.assert_close(engine.score(**jobs, labels=[LABELS] * 12), expected, rtol=1e-4, atol=1e-4)
    assert warned
    assert all(message.startswith("out of memory: rows now run in chunks of") for message in warned)


def test_no_rows_need_no_prompts() -> None:
    base = make_base("llama")
    assert OfflineEngine(base).score([], [], [], []) == []
    assert OfflineEngine(base).generate([torch.zeros(2, base.width)], [], [], []) == []
