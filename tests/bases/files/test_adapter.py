"""A LoRA adapter in the base: merged at load, part of the fingerprint, asked for by name."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError, FingerprintMismatch
from softprompt.evaluation.evaluate import evaluate
from softprompt.library.library import Library
from softprompt.serving.catalogue import find_model
from softprompt.serving.offline import Service
from softprompt.serving.residents.resident import load_resident
from softprompt.training.train import train
from tests.commands import Run
from tests.models import make_base, save_base
from tests.training.test_resume import make_task

# PEFT's use of transformers, and what it says of tied weights while it makes such an adapter.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]

IDS = torch.tensor([[5, 9, 30, 2, 40]])


def make_adapter(folder: Path, *, architecture: str = "llama", seed: int = 0, **options: Any) -> Path:
    """An adapter as PEFT saves it, with random weights in the place of zeros."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"], **options})
    model = peft.get_peft_model(make_base(architecture).model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


class Witness:
    """A value whose pickle, opened without care, makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.file}",))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "lora")


def refused(base: Path, adapter: Path, **options: Any) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(str(base), adapter=str(adapter), device="cpu", **options)
    return str(caught.value)


def test_the_base_computes_what_peft_computes(base_folder: Path, adapter: Path) -> None:
    base = FrozenBase.load(str(base_folder), adapter=str(adapter), device="cpu")
    original = transformers.AutoModelForCausalLM.from_pretrained(base_folder, attn_implementation="eager")
    twin = peft.PeftModel.from_pretrained(original, str(adapter)).eval()
    logits = base.model(input_ids=IDS).logits
    torch.testing.assert_close(logits, twin(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    bare = FrozenBase.load(str(base_folder), device="cpu")
    assert (logits - bare.model(input_ids=IDS).logits).abs().max() > 0.1
    assert type(base.model) is type(bare.model)
    assert [name for name, _ in base.model.named_parameters()] == [name for name, _ in bare.model.named_parameters()]
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not base.model.training
    assert base.params == bare.params
    assert (base.name, base.address, base.provenance()) == ("tiny-llama", str(base_folder), {"adapter": "lora"})


def test_the_adapter_is_part_of_the_fingerprint(
    base_folder: Path, other_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    whole = FrozenBase.load(str(base_folder), adapter=str(adapter)).fingerprint
    assert whole == fingerprint_of_folder(base_folder, adapter) != fingerprint_of_folder(base_folder)
    moved = Path(shutil.copytree(adapter, tmp_path / "elsewhere"))
    config = json.loads((moved / "adapter_config.json").read_text())
    cosmetic = {"base_model_name_or_path": "x", "inference_mode": False, "target_modules": config["target_modules"][::-1]}
    (moved / "adapter_config.json").write_text(json.dumps(config | cosmetic))
    assert fingerprint_of_folder(base_folder, moved) == whole
    (moved / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    others = {
        fingerprint_of_folder(base_folder, moved),
        fingerprint_of_folder(base_folder, make_adapter(tmp_path / "second", seed=1)),
        fingerprint_of_folder(other_folder, adapter),
    }
    assert len(others) == 3
    assert whole not in others


def test_an_adapter_goes_with_int8(base_folder: Path, adapter: Path) -> None:
    plain = FrozenBase.load(str(base_folder), adapter=str(adapter), device="cpu", dtype="float32")
    small = FrozenBase.load(str(base_folder), adapter=str(adapter), device="cpu", dtype="float32", quantization="int8")
    assert small.fingerprint == plain.fingerprint
    assert small.provenance() == {"adapter": "lora", "quantization": "int8"}
    ours, theirs = small.model(input_ids=IDS).logits, plain.model(input_ids=IDS).logits
    assert 0 < (ours - theirs).abs().mean() < 0.1 * theirs.abs().mean()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("llama", {"use_dora": True}),
    "rsLoRA": ("llama", {"use_rslora": True}),
    "PiSSA": ("llama", {"init_lora_weights": "pissa"}),
    "biases": ("qwen2", {"bias": "all"}),
    "ranks of their own": ("llama", {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 32}}),
    "some layers": ("llama", {"layers_to_transform": [1]}),
    "parameters": ("llama", {"target_parameters": ["mlp.up_proj.weight"]}),
    "the embedding": ("qwen2", {"target_modules": ["embed_tokens", "q_proj"]}),
    "the head": ("qwen2", {"target_modules": ["lm_head", "q_proj"]}),
    "some tokens": ("llama", {"trainable_token_indices": [3, 9]}),
    "whole modules": ("llama", {"modules_to_save": ["norm"]}),
    "a whole head that was tied": ("llama", {"modules_to_save": ["lm_head"]}),
    "a whole embedding that was tied": ("llama", {"modules_to_save": ["embed_tokens"]}),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_adapters_of_all_kinds_compute_what_peft_computes(kind: str, tmp_path: Path) -> None:
    architecture, options = KINDS[kind]
    folder = save_base(tmp_path / architecture, architecture)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], **options})

    def original() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()

    trained = peft.get_peft_model(original(), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    trained.save_pretrained(tmp_path / "lora")
    twin = peft.PeftModel.from_pretrained(original(), str(tmp_path / "lora")).eval()
    base = FrozenBase.load(str(folder), adapter=str(tmp_path / "lora"), device="cpu", dtype="float32")
    logits = twin(input_ids=IDS).logits
    torch.testing.assert_close(base.model(input_ids=IDS).logits, logits, atol=1e-4, rtol=1e-4)
    assert (logits - original()(input_ids=IDS).logits).abs().max() > 0.1
    assert not any("lora" in name or "original_module" in name for name, _ in base.model.named_parameters())


def test_an_adapter_that_names_another_base_is_merged_with_a_warning(
    base_folder: Path, adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    for named, told in (("own/other", True), ("own/Tiny-Llama", False), (str(base_folder), False), (None, False)):
        file.write_text(json.dumps({**config, "base_model_name_or_path": named}))
        caplog.clear()
        assert FrozenBase.load(str(base_folder), adapter=str(adapter)).adapter == adapter
        assert (f"says that its base is {named!r}, and is merged into" in caplog.text) == told


def test_base_show_names_the_adapter(base_folder: Path, adapter: Path, run: Run) -> None:
    (row,) = run("base", "show", base_folder, "--base-adapter", adapter, "--json").rows
    assert (row["adapter"], row["revision"]) == ("lora", None)
    assert row["fingerprint"] == fingerprint_of_folder(base_folder, adapter)
    assert run("base", "show", base_folder, "--json").rows[0]["adapter"] is None


# What cannot be merged


def test_a_pickled_adapter_is_not_opened(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"a": Witness(tmp_path / "was-run")}, adapter / "adapter_model.bin")
    message = refused(base_folder, adapter)
    assert "the weights of the adapter in" in message
    assert "are a pickle, adapter_model.bin, which can hold code and is not opened" in message
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer_replication": [[0, 2], [0, 2]]}, "repeats layers of the base (layer_replication)"),
        ({"init_lora_weights": "pissa_niter_4"}, "began with 'pissa_niter_4' (init_lora_weights), which changed the base's"),
        ({"init_lora_weights": "loftq"}, "began with 'loftq'"),
    ],
)
def test_an_adapter_that_would_be_merged_into_something_else_is_refused(
    change: dict[str, Any], expected: str, base_folder: Path, adapter: Path
) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert expected in refused(base_folder, adapter)


def test_a_merged_weight_that_is_no_number_is_told(base_folder: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "saved", modules_to_save=["norm"])
    file = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    (name,) = (name for name in tensors if name.endswith("model.norm.weight"))
    tensors[name][3] = float("nan")
    safetensors.torch.save_file(tensors, file)
    message = refused(base_folder, folder)
    assert f"with the adapter {folder}' holds NaN or infinity in 'model.norm.weight'" in message


def test_a_folder_that_holds_no_lora_adapter_is_told(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    assert "no LoRA adapter in" in refused(base_folder, tmp_path / "nothing")
    (adapter / "adapter_model.safetensors").rename(tmp_path / "kept")
    assert "has no weights: adapter_model.safetensors is not there" in refused(base_folder, adapter)
    (adapter / "adapter_model.safetensors").write_bytes((tmp_path / "kept").read_bytes()[:500])
    assert "cannot be merged into LlamaForCausalLM" in refused(base_folder, adapter)
    (adapter / "adapter_config.json").write_text("{")
    assert "adapter_config.json is not JSON" in refused(base_folder, adapter)
    prompt = make_base("llama").model
    peft.get_peft_model(prompt, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).save_pretrained(
        adapter
    )
    assert "is PROMPT_TUNING, not LORA" in refused(base_folder, adapter)


def test_an_adapter_of_another_base_is_told(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    wide = {name: torch.zeros(4, 64) if name.endswith("q_proj.lora_A.weight") else t for name, t in tensors.items()}
    safetensors.torch.save_file(wide, file)
    message = refused(base_folder, adapter)
    assert "size mismatch" in message
    assert "give the base that it was trained on" in message
    foreign = make_adapter(tmp_path / "gpt2", architecture="gpt2", target_modules=["c_attn"])
    assert "Target modules" in refused(base_folder, foreign)


def test_an_adapter_with_too_few_or_too_many_weights_is_told(base_folder: Path, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    first = next(iter(tensors))
    safetensors.torch.save_file({name: t for name, t in tensors.items() if name != first}, file)
    assert "it lacks 'base_model" in refused(base_folder, adapter)
    more = {**tensors, first.replace("layers.0", "layers.7"): tensors[first].clone()}
    safetensors.torch.save_file(more, file)
    assert "the base has no place for 'base_model" in refused(base_folder, adapter)


def test_an_adapter_of_one_side_of_tied_weights_is_told(base_folder: Path, tmp_path: Path) -> None:
    tied = make_adapter(tmp_path / "head", target_modules=["lm_head"])
    assert "which are one matrix in this base" in refused(base_folder, tied)
    rows = make_adapter(tmp_path / "rows", trainable_token_indices={"embed_tokens": [5], "lm_head": [9]})
    assert "which are one matrix in this base" in refused(base_folder, rows)


def test_weights_of_few_bits_take_no_adapter(base_folder: Path, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "packed"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    assert "cannot be merged into weights of few bits" in refused(folder, adapter)


def test_without_peft_the_extra_is_named(base_folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install 'softprompt[peft]'" in refused(base_folder, adapter)


# Through the library


def test_a_prompt_on_an_adapted_base_is_never_answered_by_the_bare_one(
    base_folder: Path, adapter: Path, tmp_path: Path, run: Run
) -> None:
    library = Library.open(tmp_path / "home")
    (tuned,) = train(make_task(tmp_path, "kind", base=str(base_folder), base_adapter=str(adapter)), library=library)
    assert tuned.prompt.card.recipe["adapter"] == "lora"
    assert library.registry.resolve("kind").base == str(base_folder)
    for options in (None, BaseOptions(dtype="float32"), str(base_folder)):
        with pytest.raises(FingerprintMismatch, match=r"with the adapter 'lora' merged into it \(--base-adapter FOLDER\)"):
            Service(library, base=options).predict(["red"], "kind")
    bare, adapted = (FrozenBase.load(str(base_folder), adapter=given) for given in (None, str(adapter)))
    for look in (
        lambda: find_model(library, bare, "kind"),
        lambda: load_resident(library, library.registry.resolve("kind"), bare),
    ):
        with pytest.raises(FingerprintMismatch, match=r"serve the other one with the adapter 'lora' merged into it"):
            look()
    assert find_model(library, adapted, "kind").id == "kind"
    (answer,) = Service(library, base=BaseOptions(adapter=str(adapter))).predict(["red"], "kind")
    assert answer.scores
    assert "--base-adapter" in run("predict", "kind", "red", "--json").refused()
    (row,) = run("predict", "kind", "red", "--base-adapter", adapter, "--json").rows
    assert row["scores"] == pytest.approx(answer.scores)
    # A task file names its adapter; rows of one's own do not.
    file = tmp_path / "kind.yaml"
    fields = {"base": str(base_folder), "base_adapter": "lora", "data": "rows.jsonl", "labels": ["good", "bad"]}
    file.write_text(json.dumps(fields))
    (judged,) = evaluate([str(file)], library=library)
    assert judged.value == tuned.report.value
    with pytest.raises(FingerprintMismatch, match="--base-adapter"):
        evaluate(["kind"], library=library, data=tmp_path / "rows.jsonl")
    assert evaluate(["kind"], library=library, data=tmp_path / "rows.jsonl", base=BaseOptions(adapter=str(adapter)))


def test_a_prompt_of_the_bare_base_is_refused_on_an_adapted_one_by_that_name(
    base_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    library = Library.open(tmp_path / "home")
    train(make_task(tmp_path, "kind", base=str(base_folder)), library=library)
    with pytest.raises(FingerprintMismatch, match=r"and tiny-llama with the adapter 'lora' with fingerprint .* is served"):
        Service(library, base=BaseOptions(adapter=str(adapter))).predict(["red"], "kind")


def test_a_version_of_the_bare_base_is_judged_on_it_whatever_its_file_says_by_now(
    base_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    library = Library.open(tmp_path / "home")
    train(make_task(tmp_path, "kind", base=str(base_folder)), library=library)
    fields = {"base": str(base_folder), "base_adapter": "lora", "data": "rows.jsonl", "labels": ["good", "bad"]}
    (tmp_path / "kind.yaml").write_text(json.dumps(fields))
    assert evaluate([str(tmp_path / "kind.yaml")], library=library)[0].version == 1


def test_a_prompt_of_an_adapted_base_is_exported_with_a_warning_and_comes_back(
    base_folder: Path, adapter: Path, tmp_path: Path, run: Run
) -> None:
    train(
        make_task(tmp_path, "kind", base=str(base_folder), base_adapter=str(adapter)),
        library=Library.open(tmp_path / "home"),
    )
    for form, source in (("peft", "peft"), ("softprompt", "softprompt/kind@1.safetensors")):
        done = run("export", "kind", tmp_path / form, "--format", form, "--json")
        assert ("with the adapter 'lora'" in done.err) == (form == "peft")
        back = ("import", tmp_path / source, "--task", "again", "--base", base_folder, "--json")
        assert "--base-adapter" in run(*back).refused()
        (row,) = run(*back, "--base-adapter", adapter).rows
        assert row["fingerprint"] == fingerprint_of_folder(base_folder, adapter)
