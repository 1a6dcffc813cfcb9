"""An outline of a base says what the base says, without its layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError
from softprompt.vllm.outline import load_outline
from tests.models import make_base, save_base


def settings(folder: Path | str, **fields: Any) -> Any:
    """What vLLM's `ModelConfig` says of a folder."""
    usual: dict[str, Any] = {
        "model": str(folder), "revision": None, "trust_remote_code": False, "hf_overrides": {}, "tokenizer": str(folder),
        "tokenizer_revision": None, "dtype": torch.float32, "max_model_len": 64,
    }  # fmt: skip
    return SimpleNamespace(**usual | fields)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "mistral", "gemma2", "opt"])
def test_an_outline_says_what_the_base_says(tmp_path: Path, kind: str) -> None:
    folder = save_base(tmp_path / kind, kind)
    base, outline = FrozenBase.load(str(folder)), load_outline(settings(folder))
    assert outline.fingerprint == base.fingerprint
    assert outline.fingerprints == base.fingerprints
    assert (outline.name, outline.width, outline.task_type) == (base.name, base.width, base.task_type)
    assert (outline.end_id, outline.end_ids, outline.device, outline.dtype) == (
        base.end_id, base.end_ids, base.device, base.dtype,
    )  # fmt: skip
    assert base.context == 96
    assert outline.context == 64, "vLLM was told to run no longer ones"
    ids = torch.arange(2, 50)[None]
    assert torch.equal(outline.embed(ids), base.embed(ids)), "scaled as the base scales them"
    assert outline.encode(["the red apple"]) == base.encode(["the red apple"])
    held = [parameter for parameter in outline.model.parameters() if not parameter.is_meta]
    assert len(held) == 1, "of the table of embeddings alone there are numbers"
    assert held[0] is outline.embedding.weight


def test_several_files_and_another_dtype(tmp_path: Path) -> None:
    save_base(tmp_path, shards="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    outline = load_outline(settings(tmp_path, dtype=torch.bfloat16, max_model_len=4096))
    assert outline.dtype == torch.bfloat16
    assert outline.context == 96, "no more than the base has"
    assert torch.equal(outline.embedding.weight, make_base("llama").embedding.weight.bfloat16())


def test_what_is_refused(tmp_path: Path, base_folder: Path) -> None:
    for fields, why in (
        ({"hf_overrides": {"rope_theta": 1.0}}, r"tiny-llama' with --hf-overrides \{'rope_theta': 1.0\}"),
        ({"tokenizer": "other"}, "with --tokenizer 'other'"),
        ({"tokenizer_revision": "v2"}, "with --tokenizer-revision 'v2'"),
    ):
        with pytest.raises(BaseModelError, match=why):
            load_outline(settings(base_folder, **fields))
    with pytest.raises(BaseModelError, match="no folder"):
        load_outline(settings(tmp_path / "none"))
    folder = tmp_path / "bin"
    shutil.copytree(base_folder, folder)
    state = make_base("llama").model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="are no safetensors; save the model again"):
        load_outline(settings(folder))
