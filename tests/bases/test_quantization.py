"""Quantised bases: the same base in fewer bytes, through which gradients flow as through the numbers it stands for."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from softprompt.bases import base as base_module
from softprompt.bases import quantization
from softprompt.bases.base import FrozenBase
from softprompt.bases.options import BaseOptions
from softprompt.bases.quantization import Int8Linear, quantize_int8
from softprompt.errors import BaseModelError
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.model.kinds.causal import Causal
from softprompt.serving.offline import Service
from softprompt.training.checkpoint import key_of
from softprompt.training.sweep import sweep
from softprompt.training.train import train
from tests.commands import Run
from tests.model.test_recompute import mixed_step
from tests.models import ARCHITECTURES, VOCABULARY, make_base, weights_digest
from tests.sessions import runs_of
from tests.training.test_resume import make_task


def int8_base(architecture: str, dtype: torch.dtype = torch.float32) -> FrozenBase:
    base = make_base(architecture, dtype=dtype)
    quantize_int8(base.model)
    return replace(base, quantization="int8")


def int8_layers(base: FrozenBase) -> Iterator[tuple[str, Int8Linear]]:
    for name, module in base.model.named_modules():
        if isinstance(module, Int8Linear):
            yield name, module


def wide_twin(architecture: str, dtype: torch.dtype = torch.float32) -> FrozenBase:
    """A plain base whose weights are the numbers that the quantised one's stand for."""
    twin = make_base(architecture, dtype=dtype)
    for name, layer in int8_layers(int8_base(architecture, dtype)):
        wide_NM = layer.weight.to(dtype) * layer.scale_N1.to(dtype)
        plain = twin.model.get_submodule(name)
        with torch.no_grad():
            plain.weight.copy_(wide_NM if isinstance(plain, torch.nn.Linear) else wide_NM.t())
    return twin


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_of_the_numbers_it_stands_for(architecture: str) -> None:
    base, twin = int8_base(architecture), wide_twin(architecture)
    losses, gradient = mixed_step(base)
    expected_losses, expected = mixed_step(twin)
    assert Causal(base).shares_prefix
    assert expected.norm() > 0
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-5)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()
    concatenated_losses, concatenated = mixed_step(base, shared=False)
    torch.testing.assert_close(concatenated_losses, losses, rtol=1e-4, atol=1e-4)
    assert (concatenated - gradient).norm() <= 1e-4 * gradient.norm()
    recomputed_losses, recomputed = mixed_step(base, recompute=True)
    torch.testing.assert_close(recomputed_losses, losses, rtol=1e-5, atol=1e-5)
    assert (recomputed - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_quantised_and_what_is_not(architecture: str) -> None:
    plain, base = make_base(architecture), int8_base(architecture)
    assert base.params == plain.params
    assert torch.equal(base.embedding.weight, plain.embedding.weight)
    head, plain_head = base.model.get_output_embeddings(), plain.model.get_output_embeddings()
    assert torch.equal(head.weight, plain_head.weight)
    assert (head.weight is base.embedding.weight) == (plain_head.weight is plain.embedding.weight)
    matrices = {name for name, p in plain.model.named_parameters() if p.ndim == 2}
    names = {f"{name}.weight" for name, _ in int8_layers(base)}
    assert names == {name for name in matrices if not any(word in name for word in ("embed", "wte", "wpe", "lm_head"))}
    assert all(layer.weight.dtype == torch.int8 for _, layer in int8_layers(base))
    ids = torch.randint(0, VOCABULARY, (4, 20), generator=torch.Generator().manual_seed(0))
    logits, expected = base.model(ids).logits, plain.model(ids).logits
    assert 0 < (logits - expected).norm() < 0.08 * expected.norm()  # 0.011 to 0.051 on these random models


@given(rows=st.integers(1, 5), columns=st.integers(2, 40), exponent=st.integers(-12, 12), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_each_weight_is_within_half_a_step_of_its_row(rows: int, columns: int, exponent: int, seed: int) -> None:
    weight_NM = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight_NM[0] = 0
    layer = Int8Linear(weight_NM, None)
    wide_NM = layer.weight.float() * layer.scale_N1
    assert (wide_NM[0] == 0).all()
    largest_N1 = weight_NM.abs().amax(1, keepdim=True)
    assert (layer.scale_N1[1:] <= largest_N1[1:] / 127 + 1.3e-7).all()
    assert ((wide_NM - weight_NM).abs() <= 0.501 * layer.scale_N1).all()
    assert torch.equal(layer(torch.eye(columns)), wide_NM.t())


def test_no_wide_weight_is_kept_for_the_way_back() -> None:
    layer = Int8Linear(torch.randn(48, 32), torch.randn(48))
    inputs = torch.randn(5, 32, requires_grad=True)
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = layer(inputs)
    assert {(tensor.dtype, tuple(tensor.shape)) for tensor in kept} == {(torch.int8, (48, 32)), (torch.float32, (48, 1))}
    outputs.square().sum().backward()
    assert layer.weight.grad is None
    assert inputs.grad is not None


def test_layers_that_share_scratch_memory_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        Int8Linear(torch.randn(90, 90), None)(torch.randn(1, 90))  # what it leaves must serve outside of the mode too
    weights = [torch.randn(32, 48), torch.randn(60, 32), torch.randn(8, 60)]
    inputs = torch.randn(3, 48, requires_grad=True)
    layers = torch.nn.Sequential(*[Int8Linear(weight_NM, None) for weight_NM in weights])
    expected = inputs
    for layer in layers:
        expected = torch.nn.functional.linear(expected, layer.weight.float() * layer.scale_N1)
    (gradient,) = torch.autograd.grad(layers(inputs).square().sum(), inputs)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_16_bits_are_near_and_do_not_overflow(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight_NM = torch.randn(64, 1536) * 0.02
    inputs = torch.randn(4, 1536) * 30  # sums of unscaled 8-bit products would pass 65,504, the largest of float16
    layer = Int8Linear(weight_NM.to(dtype), None)
    outputs = layer(inputs.to(dtype)).float()
    expected = inputs @ weight_NM.t()
    assert (outputs - expected).norm() < 0.02 * expected.norm()


def test_a_model_without_linear_layers_is_refused() -> None:
    model = SimpleNamespace(get_output_embeddings=lambda: None, named_modules=lambda: iter([("", torch.nn.Embedding(2, 2))]))
    with pytest.raises(BaseModelError, match="SimpleNamespace has no linear layers to make int8"):
        quantize_int8(model)


def test_loaded_in_int8_it_is_the_same_base_in_fewer_bytes(base_folder: Path) -> None:
    plain = FrozenBase.load(str(base_folder), device="cpu", dtype="float32")
    base = FrozenBase.load(str(base_folder), device="cpu", dtype="float32", quantization="int8")
    assert (base.fingerprint, base.params, base.dtype) == (plain.fingerprint, plain.params, plain.dtype)
    assert (base.quantization, plain.quantization) == ("int8", None)
    assert base.model.get_output_embeddings().weight is base.embedding.weight
    assert not any(p.requires_grad for p in base.model.parameters())

    def linear_bytes(one: FrozenBase) -> int:
        return sum(t.nbytes for n, t in one.model.state_dict().items() if "_proj" in n)

    assert linear_bytes(base) < 0.4 * linear_bytes(plain)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_stored_in_16_bits_and_wanted_in_32(base_folder: Path, tmp_path: Path, stored: torch.dtype) -> None:
    for file in base_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(base_folder / "model.safetensors")
    save_file({k: t.to(stored) for k, t in weights.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text()) | {"dtype": str(stored)[6:]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    direct = FrozenBase.load(str(tmp_path), device="cpu", dtype="float32", quantization="int8")
    behind = FrozenBase.load(str(tmp_path), device="cpu", dtype="float32")
    quantize_int8(behind.model)
    assert direct.dtype == torch.float32
    assert weights_digest(direct) == weights_digest(behind)
    narrow = FrozenBase.load(str(tmp_path), device="cpu", dtype=str(stored)[6:], quantization="int8")
    assert narrow.dtype == stored
    losses, gradient = mixed_step(narrow)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("name", "device", "config", "message"),
    [
        ("int9", "cpu", {}, "quantization 'int9' is unknown; did you mean 'int8'?"),
        ("4bit", "cpu", {}, "quantization 4bit needs a CUDA GPU, and the device is cpu; use int8"),
        ("int8", "cpu", {"quantization_config": {"bits": 4}}, "'some/base' is stored quantised already"),
    ],
)
def test_what_cannot_be_quantised_so_is_told(name: str, device: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(BaseModelError, match=message.replace("?", r"\?")):
        quantization.check_quantization(name, torch.device(device), config, "some/base")


@pytest.mark.parametrize(("name", "device", "package"), [("int8", "cpu", "torchao"), ("4bit", "cuda", "bitsandbytes")])
def test_a_missing_package_is_told(name: str, device: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=f"needs the package {package}, which is not here; pip install"):
        quantization.check_quantization(name, torch.device(device), {}, "some/base")


def test_4bit_is_made_by_the_loader_on_the_device(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def loader(folder: Path, **options: Any) -> Any:
        given.update(options)
        raise OSError("enough seen")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loader)
    monkeypatch.setattr(base_module, "check_quantization", lambda *_: None)
    with pytest.raises(BaseModelError, match="enough seen"):
        FrozenBase.load(str(base_folder), device="cpu", dtype="bfloat16", quantization="4bit")
    assert given["device_map"] == {"": torch.device("cpu")}
    assert given["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert given["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16


def test_a_prompt_is_tuned_judged_and_served_on_int8(base_folder: Path, tmp_path: Path) -> None:
    library = Library.open(tmp_path / "home")
    task = make_task(tmp_path, "kind", base=str(base_folder))
    narrow = BaseOptions(device="cpu", dtype="float32", quantization="int8")
    (tuned,) = train(task, library=library, base=narrow)
    assert tuned.prompt.card.recipe["quantization"] == "int8"
    assert tuned.moved > 0
    loss = [row["loss"] for row in tuned.history]
    assert loss[-1] < loss[0]
    answers = {}
    for way in ("int8", None):
        (answer,) = Service(library, base=replace(narrow, quantization=way)).predict(["the red stone"], "kind")
        assert answer.scores
        answers[way] = answer.scores["good"]
    assert answers["int8"] != answers[None]
    assert answers["int8"] == pytest.approx(answers[None], abs=0.2)
    file = tmp_path / "kind.yaml"
    file.write_text(json.dumps({"task": "kind", "base": str(base_folder), "data": "rows.jsonl", "labels": ["good", "bad"]}))
    (row,) = evaluate([str(file)], library=library, base=narrow)
    assert row.value == tuned.report.value
    swept = sweep(task, {"seed": [0, 1]}, library=library, base=narrow)
    assert swept.tuned.prompt.card.recipe["quantization"] == "int8"


def test_training_leaves_every_byte_of_the_base(tmp_path: Path) -> None:
    base = int8_base("llama")
    before = weights_digest(base)
    (tuned,) = train(make_task(tmp_path, "kind"), base=base)
    assert tuned.moved > 0
    assert weights_digest(base) == before
    next(layer for _, layer in int8_layers(base)).weight.data[0, 0] += 1
    assert weights_digest(base) != before


def test_a_checkpoint_is_of_one_way_to_quantise(tmp_path: Path) -> None:
    base = make_base("llama")
    (run,) = runs_of(base, [make_task(tmp_path, "kind")])
    assert key_of(replace(base, quantization="int8"), run) != key_of(base, run)


def test_every_command_that_loads_a_base_takes_the_option(base_folder: Path, tmp_path: Path, run: Run) -> None:
    make_task(tmp_path, "kind")  # for its rows
    task = {"base": str(base_folder), "data": "rows.jsonl", "labels": ["good", "bad"], "max_steps": 2}
    file = tmp_path / "kind.yaml"
    file.write_text(json.dumps(task | {"num_virtual_tokens": 6}))
    for command in (
        ["train", str(file)],
        ["sweep", str(file), "seed=0,1"],
        ["evaluate", str(file)],
        ["predict", "kind", "red"],
    ):
        done = run(*command, "--device", "cpu", "--json", "--quantization", "int9")
        assert done.code == 1
        assert "quantization 'int9' is unknown" in done.err
        done = run(*command, "--device", "cpu", "--json", "--quantization", "int8")
        assert done.code == 0, done.err
    assert Library.open(tmp_path / "home").registry.resolve("kind").card.recipe["quantization"] == "int8"


def test_pages_of_a_file_are_given_back_and_read_again_and_no_others(tmp_path: Path) -> None:
    numbers = torch.arange(1 << 20, dtype=torch.float32).view(1024, 1024)
    save_file({"weight": numbers}, tmp_path / "weights.safetensors")
    mapped = load_file(tmp_path / "weights.safetensors")["weight"]
    for tensor in (mapped, numbers.clone(), mapped[3:5, 7:], mapped.t()):
        before = tensor.clone()
        quantization.forget_pages(tensor)
        assert torch.equal(tensor, before)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux alone")
def test_pages_that_are_given_back_take_no_memory(tmp_path: Path) -> None:
    def resident() -> int:
        return int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    save_file({"weight": torch.ones(4 << 20)}, tmp_path / "weights.safetensors")
    weight = load_file(tmp_path / "weights.safetensors")["weight"]
    weight.sum()
    before = resident()
    quantization.forget_pages(weight)
    assert before - resident() > 12 << 10  # KiB, of 16


def test_a_copy_in_parts_is_a_copy() -> None:
    wide = torch.randn(9001, 3)
    for tensor in (wide, wide.t(), wide[0], torch.tensor(3.0)):
        copy = quantization._copy(tensor, torch.bfloat16)
        assert torch.equal(copy, tensor.bfloat16())
        assert copy.data_ptr() != tensor.data_ptr()
