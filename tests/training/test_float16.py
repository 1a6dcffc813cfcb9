"""Training in 16 bits: finite where it can be, and a clear end where numbers overflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.errors import TrainingError
from softprompt.library.library import Library
from softprompt.training.steps import forward
from softprompt.training.train import train
from tests.model.test_recompute import mixed_step
from tests.models import ARCHITECTURES, make_base, weights_digest
from tests.training.test_resume import make_task


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_in_float16_is_near_the_same_step_in_float32(architecture: str) -> None:
    losses, gradient = mixed_step(make_base(architecture, dtype=torch.float16))
    expected_losses, expected = mixed_step(make_base(architecture))
    torch.testing.assert_close(losses, expected_losses, rtol=0.01, atol=0.01)
    assert (gradient - expected).norm() < 0.06 * expected.norm()  # 0.008 to 0.033 on these random models


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_16_bits_learns(tmp_path: Path, dtype: torch.dtype) -> None:
    base = make_base("llama", dtype=dtype)
    before = weights_digest(base)
    (tuned,) = train(make_task(tmp_path, "one"), base=base)
    loss = [row["loss"] for row in tuned.history]
    assert loss[-1] < loss[0]
    assert tuned.prompt.vectors_PD.dtype == torch.float32
    assert tuned.prompt.card.recipe["dtype"] == str(dtype)[6:]
    assert weights_digest(base) == before


def test_what_overflows_stops_alone_and_is_told_with_step_and_rate(tmp_path: Path) -> None:
    base = make_base("llama", dtype=torch.float16)
    library = Library.open(tmp_path / "home")
    # Such a decay throws a vector past the largest number of float16, 65,504, in one step.
    wild = make_task(tmp_path, "wild", learning_rate=90, weight_decay=1e4, lr_scheduler_type="constant")
    with pytest.raises(
        TrainingError, match=r"'wild': the loss is no number at step 2 with learning rate 90;.*one went well"
    ):
        train([make_task(tmp_path, "one"), wild], base=base, library=library)
    beside = library.registry.resolve("one").digest
    (alone,) = train(make_task(tmp_path, "one"), base=base)
    assert beside == alone.prompt.digest


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_small_losses_keep_their_gradient_in_float16(architecture: str) -> None:
    weight = 1e-5
    _, gradient = mixed_step(make_base(architecture, dtype=torch.float16), weight=weight)
    _, expected = mixed_step(make_base(architecture), weight=weight)
    assert (gradient - expected).norm() < 0.1 * expected.norm()


def test_a_gradient_too_large_to_be_scaled_is_taken_unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base("llama", dtype=torch.float16)
    _, expected = mixed_step(make_base("llama"))
    monkeypatch.setattr(forward, "FLOAT16_SCALE", 1e7)
    _, gradient = mixed_step(base)
    assert gradient.isfinite().all()
    assert (gradient - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize("more", [{}, {"labels": None, "target": " {label}"}])
def test_what_overflows_at_its_last_step_is_not_published(tmp_path: Path, more: dict[str, Any]) -> None:
    library = Library.open(tmp_path / "home")
    recipe = {"learning_rate": 90, "weight_decay": 1e4, "lr_scheduler_type": "constant", "max_steps": 1}
    wild = make_task(tmp_path, "wild", **recipe).variant(**more)
    with pytest.raises(TrainingError, match=r"'wild': .* no numbers after step 1 with learning rate 90;.*one went well"):
        train([make_task(tmp_path, "one"), wild], base=make_base("llama", dtype=torch.float16), library=library)
    assert [entry.task for entry in library.registry.tasks()] == ["one"]
