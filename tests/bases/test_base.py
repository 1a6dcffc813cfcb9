"""The base: loaded whole or not at all, frozen, and named by a fingerprint of what it computes."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer

from softprompt.bases.architectures import task_type_of_name
from softprompt.bases.base import FrozenBase
from softprompt.bases.devices import device_of
from softprompt.bases.files import fingerprint
from softprompt.bases.files.fingerprint import fingerprint_of_folder
from softprompt.bases.files.locate import locate
from softprompt.errors import BaseModelError, ContextError
from softprompt.tasks.task import Task
from softprompt.training.train import train
from tests.models import ARCHITECTURES, make_base, save_base, tokenizer, weights_digest


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved base, to be spoilt."""
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_base_loads_frozen_and_describes_itself(base_folder: Path) -> None:
    base = FrozenBase.load(str(base_folder))
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.name == "tiny-llama"
    assert base.address == str(base_folder)
    assert (base.width, base.context, base.dtype, str(base.device)) == (32, 96, torch.float32, "cpu")
    assert base.params == sum(p.numel() for p in make_base("llama").model.parameters())
    assert len(base.fingerprint) == 32
    assert base.decode(base.encode(["red apple"])[0]) == "red apple"
    assert base.encode([]) == []
    assert base.embed(torch.tensor([[1, 2, 3]])).shape == (1, 3, 32)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), ("float16", torch.float16), ("fp32", torch.float32)],
)
def test_precision_is_chosen_and_leaves_the_fingerprint(base_folder: Path, name: str, dtype: torch.dtype) -> None:
    base = FrozenBase.load(str(base_folder), dtype=name, device="cpu")
    assert base.dtype == dtype
    assert base.fingerprint == FrozenBase.load(str(base_folder)).fingerprint


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_base_loads_to_the_same_computation(architecture: str, tmp_path: Path) -> None:
    original = make_base(architecture)
    loaded = FrozenBase.load(str(save_base(tmp_path / "saved", architecture)))
    ids = torch.tensor([[5, 9, 30, 2]])
    assert torch.equal(loaded.model(input_ids=ids).logits, original.model(input_ids=ids).logits)
    assert loaded.context == 96
    assert weights_digest(loaded) == weights_digest(original)


# Fingerprints


def test_the_fingerprint_does_not_depend_on_shards_or_folder(base_folder: Path, tmp_path: Path) -> None:
    sharded = save_base(tmp_path / "sharded", shards="30KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert fingerprint_of_folder(sharded) == fingerprint_of_folder(base_folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(_name_or_path="elsewhere", transformers_version="4.0.0", use_cache=False),
        lambda c: c.update(architectures=["Other"], dtype="bfloat16", torch_dtype="bfloat16"),
        lambda c: c.update(id2label={"0": "a"}, eos_token_id=7),
    ],
)
def test_cosmetic_config_leaves_the_fingerprint(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    before = fingerprint_of_folder(folder)
    edit(folder / "config.json", change)
    assert fingerprint_of_folder(folder) == before


def test_padding_and_truncation_of_the_tokenizer_leave_the_fingerprint(folder: Path) -> None:
    before = fingerprint_of_folder(folder)
    edit(folder / "tokenizer.json", lambda t: t.update(truncation={"max_length": 5}, padding=None))
    assert fingerprint_of_folder(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["rope_parameters"].update(rope_theta=10_001.0),
        lambda c: c.update(rms_norm_eps=1e-5),
        lambda c: c.update(hidden_act="gelu"),
        lambda c: c.update(num_key_value_heads=1),
    ],
)
def test_config_that_changes_the_computation_changes_the_fingerprint(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    before = fingerprint_of_folder(folder)
    edit(folder / "config.json", change)
    assert fingerprint_of_folder(folder) != before


def test_the_tokenizer_changes_the_fingerprint(folder: Path) -> None:
    before = fingerprint_of_folder(folder)
    edit(folder / "tokenizer.json", lambda t: t["model"]["merges"].pop())
    assert fingerprint_of_folder(folder) != before


def test_one_bit_of_one_weight_changes_the_fingerprint(folder: Path) -> None:
    before = fingerprint_of_folder(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint_of_folder(folder) != before


def test_a_weight_of_another_name_or_type_changes_the_fingerprint(folder: Path) -> None:
    before = fingerprint_of_folder(folder)
    weights = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({("x" + name if "norm" in name else name): t for name, t in tensors.items()}, weights)
    renamed = fingerprint_of_folder(folder)
    safetensors.torch.save_file({name: t.view(torch.int32) for name, t in tensors.items()}, weights)
    assert len({before, renamed, fingerprint_of_folder(folder)}) == 3


def test_a_cache_that_cannot_be_written_or_is_spoilt_costs_only_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_S", -1e9)
    expected = fingerprint_of_folder(folder)
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert fingerprint_of_folder(folder) == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fingerprint_of_folder(folder) == expected
    (remembered,) = (tmp_path / "cache").rglob("fingerprints/*")
    for spoilt in (b"", b"\xff\xfe", b"short"):
        remembered.write_bytes(spoilt)
        assert fingerprint_of_folder(folder) == expected


def test_the_fingerprint_of_a_model_in_memory_follows_weights_and_tokenizer() -> None:
    one, same, other = make_base("llama"), make_base("llama"), make_base("llama", seed=1)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with torch.no_grad():
        same.model.model.norm.weight[0] += 1e-3
    assert FrozenBase.wrap(same.model, tokenizer()).fingerprint != one.fingerprint
    assert weights_digest(same) != weights_digest(one)
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    more = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    more.add_tokens(["brand-new"])
    assert FrozenBase.wrap(one.model, more).fingerprint != one.fingerprint


# What cannot be a base


def refused(source: str | Path, **options: Any) -> str:
    with pytest.raises(BaseModelError) as caught:
        FrozenBase.load(str(source), **options)
    return str(caught.value)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("builtin/huge", "no built-in base 'builtin/huge'; there is builtin/tiny"),
        ("nobody/nothing-of-the-kind", "not in the local cache and the hub cannot be reached"),
        ("/no/such/folder", "no folder '/no/such/folder'"),
        ("./nothing", "no folder './nothing'"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("not a name!", "neither a folder here nor a valid hub id"),
    ],
)
def test_a_base_that_is_not_there_is_told(source: str, expected: str) -> None:
    message = refused(source)
    assert expected in message
    assert "builtin/tiny" in message


def test_a_folder_without_its_parts_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refused(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    assert "is a file and no folder" in refused(tmp_path / "file")
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json is not a JSON object" in refused(folder)


def test_a_folder_without_weights_or_tokenizer_is_told(folder: Path) -> None:
    kept = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert "holds no weights: neither model.safetensors nor pytorch_model.bin is there" in refused(folder)
    with pytest.raises(BaseModelError, match="no weights"):
        fingerprint_of_folder(folder)
    (folder / "model.safetensors").write_bytes(kept)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer: neither tokenizer.json nor the files of a vocabulary" in refused(folder)


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"garbage" * 99])
def test_damaged_weights_are_told(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(spoil(weights.read_bytes()))
    assert "fetch it again" in refused(folder)
    with pytest.raises(BaseModelError, match="no safetensors file, or cut short"):
        fingerprint_of_folder(folder)


def test_weights_that_are_missing_or_of_another_shape_are_never_made_up(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    some = {name: t for name, t in tensors.items() if "layers.1.mlp" not in name}
    safetensors.torch.save_file(some, weights, metadata={"format": "pt"})
    assert "lacks 3 weights of LlamaForCausalLM, 'model.layers.1.mlp" in refused(folder)
    safetensors.torch.save_file({**tensors, "model.norm.weight": torch.ones(16)}, weights, metadata={"format": "pt"})
    expected = "has 1 weight of another shape than its config.json asks for: 'model.norm.weight' is 16, and not 32; give"
    assert expected in refused(folder)


SMALL: dict[str, int] = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_a_model_that_is_not_tuned_is_told_with_its_kind(tmp_path: Path) -> None:
    model = transformers.BertForTokenClassification(transformers.BertConfig(**SMALL, intermediate_size=16))
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    message = refused(tmp_path / "model")
    assert "its task type is TOKEN_CLS, and CAUSAL_LM, SEQ_2_SEQ_LM, MASKED_LM and SEQ_CLS are tuned" in message
    assert "decoder-only" in message
    with pytest.raises(BaseModelError, match="TOKEN_CLS"):
        FrozenBase.wrap(model, tokenizer())


def test_a_classifier_that_reads_its_last_token_is_refused_by_what_it_does(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**SMALL, intermediate_size=16, pad_token_id=1)
    model = transformers.LlamaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    expected = "(LlamaForSequenceClassification) cannot be run behind vectors: no linear layer makes its answers"
    assert expected in refused(tmp_path / "model")
    with pytest.raises(BaseModelError, match="no linear layer makes its answers"):
        FrozenBase.wrap(model, tokenizer())


def test_a_decoder_without_its_head_is_refused_and_not_given_a_random_one(tmp_path: Path) -> None:
    transformers.LlamaModel(transformers.LlamaConfig(**SMALL, intermediate_size=16)).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    assert "a base with a language-modelling head" in refused(tmp_path / "model")


def test_an_encoder_without_a_head_answers_through_one_and_needs_no_pooler(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SMALL, intermediate_size=16)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    base = FrozenBase.load(str(tmp_path / "model"), device="cpu")
    assert (base.task_type, base.architecture, base.context) == ("SEQ_CLS", "BertModel", 512)


def test_code_that_comes_with_a_model_is_not_run_unasked(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    (folder / "modeling_own.py").write_text(f"open({str(witness)!r}, 'w')\n")
    edit(folder / "config.json", lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_own.Own"}))
    message = refused(folder)
    assert "--trust-remote-code" in message
    assert "`trust_remote_code: true`" in message
    assert not witness.exists()


def test_unknown_precision_and_device_are_told(base_folder: Path) -> None:
    assert "dtype 'float8' is unknown; use auto, float32" in refused(base_folder, dtype="float8")
    assert "device 'toaster' is unknown; use cpu" in refused(base_folder, device="toaster")
    for device in ("meta", "xpu") if not torch.xpu.is_available() else ("meta",):
        assert f"device '{device}' was asked for and it is not to be had here" in refused(base_folder, device=device)


def test_a_gpu_that_is_not_there_is_told(base_folder: Path) -> None:
    assert "device 'cuda:99' was asked for and no GPU is visible; use cpu" in refused(base_folder, device="cuda:99")


def test_each_process_of_several_has_the_gpu_that_its_launcher_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device_of(None) == torch.device("cuda:1")


def test_a_base_that_the_device_has_no_room_for_is_told(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(transformers.PreTrainedModel, "to", full)
    assert "does not fit the memory of cpu; use" in refused(base_folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("google/flan-t5-large", "SEQ_2_SEQ_LM"), ("t5-small", "SEQ_2_SEQ_LM"), ("google/mt5-base", "SEQ_2_SEQ_LM"),
        ("Salesforce/codet5p-220m", "SEQ_2_SEQ_LM"), ("facebook/bart-large", "SEQ_2_SEQ_LM"),
        ("allenai/led-base-16384", "SEQ_2_SEQ_LM"), ("Helsinki-NLP/opus-mt-en-de", "SEQ_2_SEQ_LM"),
        ("bert-base-uncased", "MASKED_LM"), ("FacebookAI/xlm-roberta-base", "MASKED_LM"),
        ("microsoft/deberta-v3-base", "MASKED_LM"), ("answerdotai/ModernBERT-base", "MASKED_LM"),
        ("gpt2", None), ("builtin/tiny", None), ("t5-people/llama", None), ("own/distilled-llama", None),
        ("own/gpt5-clone", None), ("bertin-project/bertin-gpt-j-6B", None), ("bartowski/Llama-3.2", None),
    ],
)  # fmt: skip
def test_what_a_name_tells_of_a_model(name: str, kind: str | None) -> None:
    assert task_type_of_name(name) == kind


@pytest.mark.usefixtures("no_network")
def test_a_base_that_is_known_by_name_to_be_of_another_kind_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    rows = [f"{word} {count},{'yes' if count % 2 else 'no'}" for word in ("red", "blue") for count in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    fields: dict[str, Any] = {
        "task": "t", "task_type": "CAUSAL_LM", "data": "rows.csv", "labels": ["yes", "no"],
        "tokenizer_name_or_path": "google/flan-t5-large",
    }  # fmt: skip
    with pytest.raises(BaseModelError, match=r"'google/flan-t5-large' .* SEQ_2_SEQ_LM, not CAUSAL_LM"):
        train(Task(folder=tmp_path, **fields))
    with pytest.raises(BaseModelError, match="MASKED_LM, not CAUSAL_LM"):
        train(Task(folder=tmp_path, **{**fields, "tokenizer_name_or_path": "bert-base-uncased"}))
    asked = r"asks for task_type SEQ_2_SEQ_LM, .* 'builtin/tiny' is a causal .* is CAUSAL_LM, .* leave task_type out"
    with pytest.raises(BaseModelError, match=asked):
        train(Task(folder=tmp_path, **{**fields, "base": "builtin/tiny", "task_type": "SEQ_2_SEQ_LM"}))
    with pytest.raises(BaseModelError, match="asks for task_type TOKEN_CLS, and CAUSAL_LM, SEQ_2_SEQ_LM, MASKED_LM and"):
        train(Task(folder=tmp_path, **{**fields, "base": "builtin/tiny", "task_type": "TOKEN_CLS"}))


# In memory


def test_a_model_in_memory_is_frozen_and_named() -> None:
    model = transformers.AutoModelForCausalLM.from_config(make_base("llama").model.config).train()
    base = FrozenBase.wrap(model, tokenizer(), name="mine")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert base.name == base.address == "mine"
    assert base.path is None


def test_the_budget_is_what_the_context_leaves() -> None:
    base = make_base("llama")
    assert base.budget(20, 1) == 75
    assert base.budget(94, 1) == 1
    with pytest.raises(ContextError, match="95 virtual tokens and 1 output token leave no room"):
        base.budget(95, 1)


def test_a_name_of_a_folder_is_resolved_whole(base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base_folder.parent)
    assert locate("tiny-llama") == base_folder.resolve()
    assert FrozenBase.load("tiny-llama").address == str(base_folder.resolve())
