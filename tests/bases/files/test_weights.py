"""Weights are whole, of tensors alone, of the config's shapes, and numbers, or the base is refused with their name."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, models

from softprompt.bases.base import FrozenBase
from softprompt.errors import BaseModelError, DataError
from softprompt.library.library import Library
from softprompt.progress import Silent
from softprompt.training.train import train
from tests.bases.files.test_adapter import Witness
from tests.commands import Run
from tests.models import make_base, save_base, tokenizer
from tests.training.test_resume import make_task


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved base, to be spoilt."""
    return Path(shutil.copytree(base_folder, tmp_path / "model"))


def refused(source: str | Path, **options: Any) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(str(source), **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def change(folder: Path, spoil: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    spoil(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def configure(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


# Pickles


def pickled(folder: Path, tensors: Any = None) -> Path:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(make_base("llama").model.state_dict() if tensors is None else tensors, file)
    return file


def test_a_pickle_of_tensors_is_loaded(folder: Path, base_folder: Path) -> None:
    pickled(folder)
    ids = torch.tensor([[5, 9, 30, 2]])
    logits = FrozenBase.load(str(base_folder)).model(input_ids=ids).logits
    assert torch.equal(FrozenBase.load(str(folder)).model(input_ids=ids).logits, logits)


@pytest.mark.parametrize("bare", [False, True])
def test_code_in_a_pickle_is_never_run_and_the_file_is_named(bare: bool, folder: Path, tmp_path: Path, run: Run) -> None:
    witness = tmp_path / "was-run"
    tensors = {**make_base("llama").model.state_dict(), "more": Witness(witness)}
    file = pickled(folder, tensors)
    if bare:
        file.write_bytes(pickle.dumps({"more": Witness(witness)}, protocol=2))
    expected = f"{file} is a pickle of more than tensors, which can name code to be run, or a damaged one, and is not opened"
    assert expected in refused(folder)
    assert str(file) in refused(folder, trust_remote_code=True)
    assert "is not opened" in run("base", "show", folder, "--json").refused()
    assert not witness.exists()


def test_of_several_pickles_the_one_with_code_is_named(folder: Path, tmp_path: Path) -> None:
    file = pickled(folder)
    tensors = torch.load(file, weights_only=True)
    file.unlink()
    parts = {"a.bin": {}, "b.bin": {"more": Witness(tmp_path / "was-run")}}
    for number, (name, tensor) in enumerate(tensors.items()):
        parts["a.bin" if number % 2 else "b.bin"][name] = tensor
    for name, part in parts.items():
        torch.save(part, folder / name)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert f"{folder / 'b.bin'} is a pickle of more than tensors" in refused(folder)
    assert not (tmp_path / "was-run").exists()


# Cut short


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_pickle_that_is_cut_short_is_named(keep: int, folder: Path) -> None:
    file = pickled(folder)
    file.write_bytes(file.read_bytes()[:keep])
    assert refused(folder) == f"{file} is cut short; fetch it again"


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_one_of_several_files_that_is_cut_short_is_named(keep: int, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "model", shards="30KB")
    file = sorted(folder.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:keep])
    assert refused(folder) == f"{file} is no safetensors file, or cut short; fetch it again"
    file.unlink()
    assert f"lacks {file.name}, which model.safetensors.index.json names" in refused(folder)


# Another config


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"hidden_size": 64},
            "20 weights of another shape than its config.json asks for: 'model.embed_tokens.weight' is 320",
        ),
        (
            {"vocab_size": 300},
            "'model.embed_tokens.weight' is 320 x 32, and not 300 x 32; give the config and the weights of",
        ),
        (
            {"num_hidden_layers": 3},
            "lacks 9 weights of LlamaForCausalLM, 'model.layers.2.input_layernorm.weight' among them",
        ),
    ],
)
def test_a_config_of_another_model_is_told(fields: dict[str, int], expected: str, folder: Path) -> None:
    configure(folder, **fields)
    assert expected in refused(folder)


def test_layers_that_the_config_leaves_out_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    configure(folder, num_hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        FrozenBase.load(str(folder))
    assert "9 weights that LlamaForCausalLM does not take, 'model.layers.1.input_layernorm.weight' among" in caplog.text


def test_what_old_files_hold_beside_weights_is_not_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.masked_bias": torch.ones(1)}))
    with caplog.at_level(logging.WARNING):
        FrozenBase.load(str(folder))
    assert caplog.text == ""


# No numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_that_is_no_number_is_named(name: str, value: float, folder: Path) -> None:
    change(folder, lambda tensors: tensors[name].view(-1).__setitem__(7, value))
    for options in ({}, {"dtype": "bfloat16"}, {"quantization": "int8"}):
        assert f"holds NaN or infinity in {name!r} (as " in refused(folder, device="cpu", **options)


def test_large_weights_are_numbers_until_a_narrow_dtype_makes_them_none(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors[name].fill_(1e6))
    assert FrozenBase.load(str(folder), dtype="float32").params
    assert f"in {name!r} (as float16); fetch or save it again, or give another dtype" in refused(folder, dtype="float16")


def test_a_model_in_memory_with_a_weight_that_is_no_number_is_refused() -> None:
    model = make_base("llama").model
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[1, 2] = float("nan")
    with pytest.raises(BaseModelError, match=r"'mine' holds NaN or infinity in 'model\.layers\.0\.mlp\.down_proj\.weight'"):
        FrozenBase.wrap(model, tokenizer(), name="mine")


# Another tokenizer


class Stages(Silent):
    """Keeps the names of the stages that were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def stage(self, name: str, total: int) -> Any:
        self.names.append(name)
        return super().stage(name, total)


def test_the_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    words = {f"w{number}": number for number in range(2_000)}
    other = Tokenizer(models.WordLevel(words, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=other).save_pretrained(folder)
    assert (
        "the tokenizer of model is of another model: it has 1,680 tokens more than the embedding has rows (320)"
        in refused(folder)
    )


def test_a_task_that_takes_a_token_without_an_embedding_is_told_before_it_is_trained(folder: Path, tmp_path: Path) -> None:
    more = transformers.AutoTokenizer.from_pretrained(folder)
    more.add_tokens(["d apple"])
    more.save_pretrained(folder)
    library = Library.open(tmp_path / "home")
    stages = Stages()
    with pytest.raises(DataError, match=r"holds the token 'd apple' \(id 320\), for which .* no embedding \(it has 320\)"):
        train(make_task(tmp_path, "kind", base=str(folder)), library=library, progress=stages)
    assert "load" in stages.names
    assert "train" not in stages.names
    assert library.registry.tasks() == []
