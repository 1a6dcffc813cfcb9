"""Running out of memory: smaller chunks, the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.errors import TrainingError
from softprompt.training import loop
from softprompt.training.tune import train
from tests.models import make_base
from tests.test_resume import make_task


def starve(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let a step fail as the allocator does when its chunks are larger than `most` tokens; the budgets that were tried."""
    honest = loop.losses_and_gradient
    tried: list[int] = []

    def hungry(base: Any, stack: Any, examples: Any, *, token_budget: int) -> Any:
        tried.append(token_budget)
        if token_budget > most:
            torch.empty(1 << 60, dtype=torch.uint8)  # really fails, with the allocator's own words
        return honest(base, stack, examples, token_budget=token_budget)

    monkeypatch.setattr(loop, "losses_and_gradient", hungry)
    return tried


def test_out_of_memory_halves_the_chunks_says_so_once_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("llama")
    plain = train(make_task(tmp_path, "one"), base=base)[0].prompt.vectors_PD
    tried = starve(monkeypatch, 40)
    with pytest.warns(UserWarning, match="out of memory") as told:
        starved = train(make_task(tmp_path, "one"), base=base)[0].prompt.vectors_PD
    assert tried[:7] == [2048, 1024, 512, 256, 128, 64, 32]
    assert set(tried[7:]) == {32}
    assert len({str(warning.message) for warning in told}) == 6
    torch.testing.assert_close(starved, plain, rtol=1e-3, atol=1e-4)


def test_a_row_that_does_not_fit_alone_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="out of memory"),
        pytest.raises(TrainingError, match="out of memory with a single row"),
    ):
        train(make_task(tmp_path, "one"), base=make_base("llama"))


def test_other_failures_of_torch_are_not_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the size of tensor a must match")

    monkeypatch.setattr(loop, "losses_and_gradient", broken)
    with pytest.raises(RuntimeError, match="size of tensor"):
        train(make_task(tmp_path, "one"), base=make_base("llama"))
