"""What is read of a GGUF file is the model that was written to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.check import ARCHITECTURES
from tests.gguf_files import CONFIGS, make_model, save_gguf, tensors_of


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


def config_with(tmp_path: Path, architecture: str = "llama", tensors: Any = None, **metadata: Any) -> Any:
    told = {f"{architecture}.{key.replace('__', '.')}": value for key, value in metadata.items()}
    file = save_gguf(tmp_path / "m.gguf", architecture, metadata=told, tensors=tensors)
    return FrozenBase.load(str(file), device="cpu", dtype="float32").model.config


def test_positions_are_stretched_as_the_file_says(tmp_path: Path) -> None:
    linear = {"rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    assert config_with(tmp_path, **linear).rope_parameters["factor"] == 8
    full = config_with(tmp_path, "gemma3", **linear).rope_parameters
    assert (full["full_attention"]["factor"], "factor" in full["sliding_attention"]) == (8, False)
    assert config_with(tmp_path, rope__scaling__type="none").rope_parameters["rope_type"] == "default"


def test_llama_3s_factors_are_known_again_by_their_numbers(tmp_path: Path) -> None:
    width, theta = 64, 500000.0
    told = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, num_hidden_layers=1,
        vocab_size=320, initializer_range=0.5, max_position_embeddings=96, bos_token_id=None, eos_token_id=0,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": theta, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(told).eval()
    plain = theta ** (-torch.arange(0, width, 2) / width)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    assert (factors.min(), factors.max()) == (pytest.approx(1), pytest.approx(32))
    file = save_gguf(tmp_path / "m.gguf", model=model, tensors={"rope_freqs.weight": factors})
    base = FrozenBase.load(str(file), device="cpu", dtype="float32")
    torch.testing.assert_close(base.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    ids = torch.randint(2, 320, (1, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(base.model(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layers", "width"), [(2, 16), (62, 8)])
def test_gemmas_of_27_billion_weights_scale_by_another_width(layers: int, width: int, tmp_path: Path) -> None:
    """Which llama.cpp tells by the number of layers: 32 numbers by 4 heads, where a head has 16."""
    model = make_model("gemma3", head_dim=16)
    weights = tensors_of(model, "gemma3")
    for number in range(2, layers):
        weights |= {
            key.replace("blk.0.", f"blk.{number}."): value for key, value in weights.items() if key.startswith("blk.0.")
        }
    file = save_gguf(tmp_path / "m.gguf", "gemma3", model, tensors=weights, metadata={"gemma3.block_count": layers})
    found = FrozenBase.load(str(file), device="cpu").model.config
    assert (found.num_hidden_layers, found.query_pre_attn_scalar, found.head_dim) == (layers, width, 16)
