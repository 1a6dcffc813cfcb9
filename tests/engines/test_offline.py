"""The engine of one call: many prompts go through the base in lots, and none without a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.engines.offline import OfflineEngine
from softprompt.evaluation.trials import result_of
from tests.engine_jobs import Starved, generate_offline, score_offline
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


@pytest.mark.parametrize("shared", [True, False])
def test_prompts_in_lots_change_nothing(shared: bool) -> None:
    causal = Starved(make_base("llama"))
    causal.shares_prefix = shared
    jobs = some_jobs(causal.base)
    scores = result_of(OfflineEngine(causal).score(**jobs, labels=[LABELS] * 12))
    answers = result_of(OfflineEngine(causal).generate(**jobs, max_new_tokens=[4] * 12))
    if shared:
        lots = causal.lots[-2:]
        assert lots == [(8, 6), (7, 6)]  # all at once, but for the one without a row; an empty one generates without
    causal.lots.clear()
    engine = OfflineEngine(causal, token_budget=12)
    done: list[int] = []
    again = result_of(engine.score(**jobs, labels=[LABELS] * 12), lambda rows, text: done.append(rows))
    torch.testing.assert_close(again, scores, rtol=1e-4, atol=1e-4)
    assert result_of(engine.generate(**jobs, max_new_tokens=[4] * 12)) == answers
    assert sum(done) == 12
    assert sum(prompts for prompts, _ in causal.lots) == (8 + 7 if shared else 0)
    assert all(prompts * columns <= 12 for prompts, columns in causal.lots)
    for row, (which, ids) in enumerate(zip(jobs["which"], jobs["inputs"], strict=True)):
        (alone,) = score_offline(causal.base, [jobs["prompts"][which]], [0], [ids], [LABELS])
        assert scores[row] == pytest.approx(alone, abs=1e-4)


def test_lots_of_prompts_are_halved_where_memory_runs_out() -> None:
    base = make_base("llama")
    jobs = some_jobs(base)
    expected = score_offline(base, **jobs, labels=[LABELS] * 12)
    warned: list[str] = []
    engine = OfflineEngine(Starved(base, prompts=3), warn=warned.append)
    torch.testing.assert_close(result_of(engine.score(**jobs, labels=[LABELS] * 12)), expected, rtol=1e-4, atol=1e-4)
    assert warned
    assert all(message.startswith("out of memory: rows now run in chunks of") for message in warned)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_numbers_ends_alone(value: float) -> None:
    base = make_base("llama")
    jobs = some_jobs(base)
    bounds = [5 + row % 3 for row in range(12)]
    expected = generate_offline(base, **jobs, max_new_tokens=bounds)
    jobs["prompts"][3] = torch.full_like(jobs["prompts"][3], value)
    answers = generate_offline(base, **jobs, max_new_tokens=bounds)
    for which, answer, plain in zip(jobs["which"], answers, expected, strict=True):
        assert answer == ([] if which == 3 else plain)


def test_no_rows_need_no_prompts() -> None:
    base = make_base("llama")
    assert score_offline(base, [], [], [], []) == []
    assert generate_offline(base, [torch.zeros(2, base.width)], [], [], []) == []
