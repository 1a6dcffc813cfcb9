"""The fingerprint is of what is loaded: of the files that transformers opens, whatever else lies there, whatever is
installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch
import transformers

from softprompt.bases.base import FrozenBase
from softprompt.bases.files import fingerprint, weights
from softprompt.bases.files.fingerprint import (
    fingerprint_of_folder,
    fingerprint_of_model,
    fingerprints_of_folder,
    former_fingerprint,
    stamp_of_folder,
)
from softprompt.bases.files.locate import BUILTIN, read_object
from softprompt.bases.files.vocabulary import VOCABULARIES, WHOLE, describe_tokenizer, tokenizer_files
from softprompt.bases.files.weights import find_weights
from softprompt.errors import BaseModelError
from tests.models import VOCABULARY, make_base, save_base, tokenizer

TINY = BUILTIN["builtin/tiny"]
TINY_NOW, TINY_BEFORE = "05fe3ad235bb596537fb922fb0b29f31", "61246cf201230520080d4dc37acf5547"


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved base, to be changed."""
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that takes also files that were written just now; its folder."""
    monkeypatch.setattr(fingerprint, "SETTLED_S", -1e9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "softprompt" / "fingerprints"


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in {**content, **changes}.items() if value is not ...}))


def flip(file: Path) -> None:
    """Another last byte; size and time stay."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# The rule


def test_the_rule_gives_the_values_that_libraries_hold() -> None:
    assert fingerprint_of_folder(TINY) == TINY_NOW
    assert former_fingerprint(TINY) == (TINY_BEFORE,)
    assert fingerprints_of_folder(TINY) == FrozenBase.load("builtin/tiny").fingerprints == {TINY_NOW, TINY_BEFORE}


@pytest.mark.parametrize("absent", [("transformers", "torch", "peft"), ("peft",), ("mistral_common",)])
def test_no_version_of_any_package_is_part_of_it(absent: tuple[str, ...], base_folder: Path) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from pathlib import Path\nfrom softprompt.bases.files.fingerprint import fingerprint_of_folder\n"
        f"print(fingerprint_of_folder(Path({str(base_folder)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == FrozenBase.load(str(base_folder)).fingerprint


def test_keys_that_a_newer_transformers_gives_to_every_config_are_no_part_of_one_in_memory() -> None:
    class NewerConfig(transformers.LlamaConfig):  # type: ignore[misc]
        model_type = "llama"

        def __init__(self, **given: Any) -> None:
            self.brand_new = given.pop("brand_new", 3)
            super().__init__(**given)

    base = make_base("llama")
    base.model.config = NewerConfig(**base.model.config.to_diff_dict())
    assert FrozenBase.wrap(base.model, tokenizer()).fingerprint == base.fingerprint
    base.model.config.brand_new = 4
    assert FrozenBase.wrap(base.model, tokenizer()).fingerprint != base.fingerprint


# Weights: those that are opened


def save_as(layout: str, folder: Path, *, seed: int) -> None:
    """The weights of a random model in one of the forms that transformers opens, into a folder that may have others."""
    model = make_base("llama", seed=seed).model
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    names = sorted(state)
    parts = {"1": {name: state[name] for name in names[::2]}, "2": {name: state[name] for name in names[1::2]}}
    if layout == "safetensors":
        safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif layout == "named":
        safetensors.torch.save_file(state, folder / "own.safetensors", metadata={"format": "pt"})
        edit(folder / "config.json", transformers_weights="own.safetensors")
    else:
        stem, suffix = ("model", "safetensors") if layout == "safetensors index" else ("pytorch_model", "bin")
        for number, part in parts.items():
            file = folder / f"{stem}-{number}-of-2.{suffix}"
            if suffix == "bin":
                torch.save(part, file)
            else:
                safetensors.torch.save_file(part, file, metadata={"format": "pt"})
        where = {name: f"{stem}-{number}-of-2.{suffix}" for number, part in parts.items() for name in part}
        index = {"metadata": {"total_size": 1}, "weight_map": where}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


LAYOUTS = ["named", "safetensors", "safetensors index", "bin", "bin index"]
"""Each goes before those behind it."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_that_are_opened_count_and_no_others(layout: str, base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_as(layout, folder, seed=3)
    alone = fingerprint_of_folder(folder)
    for other in LAYOUTS[LAYOUTS.index(layout) + 1 :]:
        save_as(other, folder, seed=4)
    safetensors.torch.save_file({"stray": torch.ones(3)}, folder / "consolidated.safetensors")
    assert fingerprint_of_folder(folder) == alone

    opened: dict[str, torch.Tensor] = {}
    for file in find_weights(folder, read_object(folder / "config.json")):
        opened |= safetensors.torch.load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    base = FrozenBase.load(str(folder), device="cpu", dtype="float32")
    loaded = base.model.state_dict()
    assert opened.keys() == loaded.keys() - {"lm_head.weight"}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in opened.items())
    assert base.fingerprint == alone

    flip(find_weights(folder, read_object(folder / "config.json"))[-1])
    assert fingerprint_of_folder(folder) != alone


def test_the_fingerprint_of_before_counts_as_one_of_the_base_only_where_it_counted_its_weights(folder: Path) -> None:
    (before,) = former_fingerprint(folder)
    safetensors.torch.save_file({"stray": torch.ones(3)}, folder / "consolidated.safetensors")
    (with_stray,) = former_fingerprint(folder)
    assert with_stray != before  # as that rule had it
    save_as("bin", folder, seed=3)
    (folder / "model.safetensors").unlink()
    assert former_fingerprint(folder) == ()  # it counted the stray file, and not what is opened


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "model-2-of-2.safetensors").unlink(), "lacks model-2-of-2.safetensors, which"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "names no files of weights"),
        (
            lambda f: (f / "model-1-of-2.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "is a Git LFS pointer and not the weights themselves; run `git lfs pull`",
        ),
    ],
)
def test_an_index_that_names_what_is_not_there_is_told(spoil: Callable[[Path], object], expected: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    save_as("safetensors index", folder, seed=3)
    spoil(folder)
    with pytest.raises(BaseModelError, match=re.escape(expected)):
        FrozenBase.load(str(folder))


# The tokenizer and the end of a text


@pytest.mark.parametrize(
    "change",
    [
        lambda f: edit(f / "tokenizer_config.json", eos_token="<pad>"),
        lambda f: edit(f / "tokenizer_config.json", extra_special_tokens=["red"]),
        lambda f: edit(f / "tokenizer_config.json", chat_template="{{ messages }}"),
        lambda f: edit(f / "tokenizer_config.json", add_prefix_space=True),
        lambda f: edit(f / "tokenizer_config.json", split_special_tokens=True),
        lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
        lambda f: edit(f / "special_tokens_map.json", eos_token="<pad>"),
        lambda f: edit(f / "added_tokens.json", brand=400),
        lambda f: edit(f / "tokenizer.json", normalizer={"type": "Lowercase"}),
        lambda f: edit(f / "generation_config.json", eos_token_id=[0, 7]),
        lambda f: edit(f / "generation_config.json", eos_token_id=...),
    ],
)
def test_what_changes_ids_answers_or_their_end_changes_the_fingerprint(
    folder: Path, change: Callable[[Path], object]
) -> None:
    edit(folder / "generation_config.json", eos_token_id=0)
    before = fingerprint_of_folder(folder)
    stamp = stamp_of_folder(folder)
    change(folder)
    assert fingerprint_of_folder(folder) != before
    assert stamp_of_folder(folder) != stamp


@pytest.mark.parametrize(
    "change",
    [
        lambda f: edit(f / "tokenizer_config.json", model_max_length=7, padding_side="left", name_or_path="elsewhere"),
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", backend="other"),
        lambda f: edit(f / "tokenizer_config.json", eos_token={"__type": "AddedToken", "content": "<end>", "lstrip": False}),
        lambda f: edit(f / "tokenizer_config.json", unk_token=None, extra_special_tokens=[]),
        lambda f: edit(f / "generation_config.json", temperature=0.3, transformers_version="9"),
        lambda f: edit(f / "generation_config.json", eos_token_id=[0]),
        lambda f: (f / "vocab.txt").write_text("red\n"),
        lambda f: (f / "README.md").write_text("read me"),
        lambda f: (f / "notes.py").write_text("1"),
    ],
)
def test_what_changes_none_of_that_leaves_it(folder: Path, change: Callable[[Path], object]) -> None:
    edit(folder / "generation_config.json", eos_token_id=0)
    before = fingerprint_of_folder(folder)
    change(folder)
    assert fingerprint_of_folder(folder) == before


def test_a_chat_template_is_the_same_in_a_file_and_in_the_config(folder: Path) -> None:
    plain = fingerprint_of_folder(folder)
    edit(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    inside = fingerprint_of_folder(folder)
    edit(folder / "tokenizer_config.json", chat_template="another, which the file goes before")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint_of_folder(folder) == inside != plain
    assert FrozenBase.load(str(folder)).tokenizer.chat_template == "{{ messages }}"


ENDS: list[Any] = [..., None, 0, 7, [7], [7, 9]]


def test_the_end_of_a_text_is_counted_as_it_is_loaded(folder: Path) -> None:
    found: dict[str, frozenset[int]] = {}
    for generation in (*ENDS, "no file"):
        for config in ENDS if generation == "no file" else (0, 9):
            if generation == "no file":
                (folder / "generation_config.json").unlink(missing_ok=True)
            else:
                edit(folder / "generation_config.json", eos_token_id=generation)
            edit(folder / "config.json", eos_token_id=config)
            base = FrozenBase.load(str(folder))
            ends = getattr(base.model.generation_config, "eos_token_id", None)
            assert frozenset(fingerprint.sorted_ids(ends)) == found.setdefault(
                base.fingerprint, frozenset(fingerprint.sorted_ids(ends))
            )
    assert len(found) == len(set(found.values())) == 4  # none; 0; 7; 7 and 9


def test_a_vocabulary_without_a_whole_tokenizer_counts_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    (folder / WHOLE).unlink()
    for name in ("sentencepiece.bpe.model", "source.spm", "vocab-src.json", "tekken.json", "qwen.tiktoken"):
        before = fingerprint_of_folder(folder)
        (folder / name).write_text("{}")
        one = fingerprint_of_folder(folder)
        (folder / name).write_text("{} ")
        assert len({before, one, fingerprint_of_folder(folder)}) == 3, name
        assert former_fingerprint(folder) == former_fingerprint(folder)


def test_every_file_of_a_vocabulary_that_transformers_knows_is_known(tmp_path: Path) -> None:
    source = Path(transformers.__file__).parent / "models"
    named: set[str] = set()
    for file in source.glob("*/tokenization*.py"):
        for block in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", file.read_text(encoding="utf-8"), re.DOTALL):
            named |= set(re.findall(r":\s*\"([\w.-]+\.\w+)\"", block))
    named -= {WHOLE, "tokenizer_config.json"}
    assert len(named) > 15
    for name in sorted(named):
        (tmp_path / name).touch()
    assert {file.name for file in tokenizer_files(tmp_path)} == named, VOCABULARIES


def test_the_settings_of_a_tokenizer_in_memory_count(tmp_path: Path) -> None:
    base = make_base("llama")
    for change in ({"eos_token": "<pad>"}, {"bos_token": "<end>"}, {"chat_template": "{{ messages }}"}):
        settings = {"eos_token": "<end>", "pad_token": "<pad>", **change}
        other = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, **settings)
        assert FrozenBase.wrap(base.model, other).fingerprint != base.fingerprint, change


def test_code_that_runs_counts_and_code_that_does_not_leaves_it(folder: Path) -> None:
    (folder / "modeling_own.py").write_text("one = 1")
    plain = fingerprint_of_folder(folder)
    assert fingerprint_of_folder(folder, code=True) == plain
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    one = fingerprint_of_folder(folder, code=True)
    (folder / "modeling_own.py").write_text("one = 2")
    assert len({plain, one, fingerprint_of_folder(folder, code=True)}) == 3


# What is remembered


def test_what_is_remembered_spares_reading_and_no_changed_byte_is_missed(
    folder: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fingerprint_of_folder(folder)

    def read(*_: Any) -> None:
        raise AssertionError("the weights were read")

    with monkeypatch.context() as patched:
        patched.setattr(fingerprint, "digest_tensors", read)
        assert fingerprint_of_folder(folder) == first
        with pytest.raises(AssertionError, match="were read"):
            fingerprint_of_folder(folder, again=True)
    flip(folder / "model.safetensors")  # of the same size, and its time set back
    assert fingerprint_of_folder(folder) != first


def test_another_file_in_the_same_place_is_another_one(folder: Path, remembering: Path) -> None:
    first = fingerprint_of_folder(folder)
    stat = (folder / "model.safetensors").stat()
    shutil.copy2(folder / "model.safetensors", folder / "other")
    flip(folder / "other")
    os.replace(folder / "other", folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_of_folder(folder) != first


def test_what_was_written_a_moment_ago_is_not_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fingerprint_of_folder(folder)
    assert not list((tmp_path / "cache").rglob("fingerprints/*"))


def test_files_that_change_while_they_are_loaded_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = weights.digest_tensors

    def changing(*given: Any) -> None:
        honest(*given)
        edit(folder / "generation_config.json", eos_token_id=9)

    monkeypatch.setattr(fingerprint, "digest_tensors", changing)
    with pytest.raises(BaseModelError, match="were changed while they were read; load it again"):
        FrozenBase.load(str(folder))


def test_an_old_prompt_and_a_new_one_are_of_one_base(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base")
    base = FrozenBase.load(str(folder))
    assert base.fingerprints == {base.fingerprint, *former_fingerprint(folder)}
    assert len(base.fingerprints) == 2


MARKED = {"__type": "AddedToken", "content": "<end>"}
TOKENS = ["<end>", "<pad>", None, ..., MARKED, {**MARKED, "lstrip": True}]
CHOICES: dict[str, list[Any]] = {
    "eos_token": TOKENS,
    "bos_token": TOKENS,
    "chat_template": [..., None, "{{ messages }}", "{{ 1 }}"],
    "extra_special_tokens": [..., [], ["red"], ["blue", "red"]],
    "additional_special_tokens": [..., [], ["red"]],
    "model_max_length": [5, 9],
    "added_tokens_decoder": [..., {"0": {"content": "<end>", "special": True}}],
}
SETTINGS: Any = st.fixed_dictionaries({key: st.sampled_from(values) for key, values in CHOICES.items()})
MAPS: Any = st.sampled_from([None, {}, {"eos_token": "<pad>"}, {"eos_token": {"content": "<end>", "lstrip": False}}])


@hypothesis.given(SETTINGS, MAPS, st.sampled_from(list(CHOICES)))
@hypothesis.settings(max_examples=50)
def test_equal_fingerprints_are_equal_tokenizers(
    settings: dict[str, Any], special: dict[str, Any] | None, changed: str
) -> None:
    written = [({**settings, changed: value}, special) for value in CHOICES[changed]] + [(settings, None)]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backend = tokenizer().backend_tokenizer.to_str()
        for settings, special in written:
            (folder / WHOLE).write_text(backend)
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
            edit(folder / "tokenizer_config.json", **settings)
            (folder / "special_tokens_map.json").unlink(missing_ok=True)
            if special is not None:
                (folder / "special_tokens_map.json").write_text(json.dumps(special))
            loaded = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
            text = "red <end> blue<pad>red"
            built = (
                loaded(text)["input_ids"], loaded.special_tokens_map, loaded.chat_template, loaded.eos_token_id,
                loaded.bos_token_id, sorted(loaded.all_special_ids), loaded.decode(loaded(text)["input_ids"]),
            )  # fmt: skip
            assert found.setdefault(json.dumps(describe_tokenizer(folder), sort_keys=True), built) == built


# Padding


@pytest.mark.parametrize(("kind", "counts"), [("roberta", True), ("xlm-roberta", True), ("luke", True), ("bert", False)])
def test_padding_counts_where_positions_begin_behind_it(
    kind: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow twin: whether the same weights answer otherwise with another id of padding."""
    folders, logits, weights = [], [], None
    for padding in (1, 3):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=98, pad_token_id=padding, initializer_range=0.3,
        )  # fmt: skip
        model = transformers.AutoModelForMaskedLM.from_config(config).eval()
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        ids = torch.arange(10, 30)[None]
        with torch.no_grad():
            embeds = model.get_input_embeddings().weight[ids]
            logits.append(model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids)).logits)
        folders.append(tmp_path / f"{kind}-{padding}")
        model.save_pretrained(folders[-1])
        tokenizer().save_pretrained(folders[-1])
    usual, other = folders
    assert torch.equal(*logits) is not counts
    assert (fingerprint_of_folder(usual) != fingerprint_of_folder(other)) is counts
    assert (not fingerprints_of_folder(usual) & fingerprints_of_folder(other)) is counts
    bases = [fingerprint_of_model(transformers.AutoModelForMaskedLM.from_pretrained(one), tokenizer()) for one in folders]
    edit(other / "config.json", pad_token_id=1)
    bases.append(fingerprint_of_model(transformers.AutoModelForMaskedLM.from_pretrained(other), tokenizer()))
    assert (bases[0] == bases[2], bases[1] == bases[2]) == (True, not counts)
    assert fingerprint_of_folder(other) == fingerprint_of_folder(usual)
    plain = fingerprints_of_folder(usual)
    edit(other / "config.json", pad_token_id=...)
    assert fingerprint_of_folder(other) == fingerprint_of_folder(usual) or not counts, "what is not said is the usual one"
    monkeypatch.setattr(fingerprint, "_COUNT_FROM_PADDING", frozenset())
    assert fingerprints_of_folder(usual) == plain, "and all that have it keep the fingerprints of before"
