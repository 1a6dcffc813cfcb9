"""What is read of a GGUF file is the model that was written to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.check import ARCHITECTURES
from tests.gguf_files import CONFIGS, make_model, save_gguf


def test_every_architecture_that_is_let_in_is_tried_here() -> None:
    assert sorted(ARCHITECTURES) == sorted(CONFIGS)


@pytest.mark.parametrize("architecture", CONFIGS)
@torch.no_grad()
def test_a_model_comes_back_as_it_was_written(architecture: str, tmp_path: Path) -> None:
    model = make_model(architecture)
    base = FrozenBase.load(save_gguf(tmp_path / "m.gguf", architecture, model).as_posix(), device="cpu", dtype="float32")
    ids = torch.randint(2, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(base.model(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)
    mine, theirs = base.model.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-6, atol=1e-6, msg=name)
