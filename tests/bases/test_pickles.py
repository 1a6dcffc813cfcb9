"""Weights of a saved model: pickles run nothing, and numbers that are none are told before anything is trained."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.file)!r}, 'w').close()",))


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_of_weights_runs_nothing(plain: bool, base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "it-ran"
    weights = folder / "pytorch_model.bin"
    if plain:
        weights.write_bytes(pickle.dumps({"model.embed_tokens.weight": Malicious(mark)}))
    else:
        torch.save({"model.embed_tokens.weight": Malicious(mark)}, weights)
    with pytest.raises(BaseModelError, match=r"is a pickle of more than tensors|cannot be loaded|is damaged"):
        FrozenBase.load(str(folder), device="cpu")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()  # so the test would have seen it


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_base_that_answers_nothing_but_nan_is_refused(name: str, base_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors[name].fill_(3e38)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="cannot answer: it makes NaN or infinity of any tokens"):
        FrozenBase.load(str(folder), device="cpu")
