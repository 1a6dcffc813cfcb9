"""A GGUF file with prompts as tokens: what need not change has its bytes, and read back it answers as ours does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import numpy as np
import peft
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softprompt.bases.base import FrozenBase
from softprompt.bases.gguf.file import GgufFile, Tensor, read_gguf
from softprompt.bases.gguf.numbers import read_numbers
from softprompt.bases.options import BaseOptions
from softprompt.errors import BaseModelError
from softprompt.exchange.exporting import Format, export_prompt
from softprompt.exchange.tokens import table
from softprompt.exchange.tokens.export import export_tokens
from softprompt.exchange.tokens.gguf_file import HEAD, TABLE
from softprompt.exchange.tokens.kquants import pack_q6_k
from softprompt.library.library import Library
from softprompt.prompts.card import Card
from softprompt.prompts.prompt import SoftPrompt
from tests.bases.gguf.test_tokenizer import SENTENCES
from tests.bases.gguf.test_use import split
from tests.exchange.tokens.exported import check_answers, library_of, used
from tests.gguf_files import CONFIGS, make_model, save_gguf
from tests.models import VOCABULARY

pytestmark = pytest.mark.slow

TASKS = ["words", "kind", "pair"]
WIDE = BaseOptions(dtype="float32")
Kind = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def raw(tensor: Tensor | None) -> bytes:
    assert tensor is not None
    return np.fromfile(tensor.file, np.uint8, tensor.bytes, offset=tensor.start).tobytes()


def export(file: Path, place: Path, *, alone: bool = False) -> tuple[Library, FrozenBase, GgufFile]:
    base = FrozenBase.load(str(file), dtype="float32")
    with library_of(place / "home", base, file) as library:
        export_tokens(library, TASKS, place / "out", base=WIDE, gguf_alone=alone)
        return library, base, read_gguf(place / "out" / "model.gguf")


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize("architecture", [name for name in CONFIGS if name != "gemma2"])
def test_it_answers_as_ours_and_keeps_bytes(architecture: str, kind: Any, tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "base.gguf", architecture, kind=kind)
    _, base, made = export(file, tmp_path)
    old, rows = read_gguf(file), VOCABULARY + 9
    for tensor in old.tensors:
        if tensor.name not in (TABLE, HEAD):
            again = made.tensor(tensor.name)
            assert again is not None
            assert (again.shape, again.kind, raw(again)) == (tensor.shape, tensor.kind, raw(tensor)), tensor.name
    table, head, old_table = made.tensor(TABLE), made.tensor(HEAD), old.tensor(TABLE)
    assert table is not None
    assert head is not None
    assert old_table is not None
    assert (table.kind, table.shape[0], head.shape[0]) == (0, rows, rows)
    assert np.array_equal(read_numbers(table)[:VOCABULARY], read_numbers(old_table))
    old_head = old.tensor(HEAD) or old_table
    assert head.kind == old_head.kind
    assert raw(head).startswith(raw(old_head))
    numbers = read_numbers(head)
    step = np.abs(numbers).max() / 4  # of a level in four bits, at most
    assert np.allclose(numbers[VOCABULARY:], numbers[:VOCABULARY].mean(0), atol=step if kind == Kind.Q4_1 else 1e-2)
    assert {key: value for key, value in old.metadata.items() if not key.startswith("tokenizer.")} == {
        key: value for key, value in made.metadata.items() if not key.startswith("tokenizer.")
    }
    with Library.open(tmp_path / "home") as library:
        plain = used(tmp_path / "out")
        check_answers(plain, library, base)
        again_base = FrozenBase.load(str(tmp_path / "out" / "model.gguf"), dtype="float32")
        check_answers(plain | named(again_base, plain), library, base)


def named(base: FrozenBase, plain: dict[str, Any]) -> dict[str, Any]:
    """The README's functions, on another model and tokenizer."""
    plain["generate"].__globals__.update(model=base.model, tokenizer=base.tokenizer)
    return {name: plain["generate"].__globals__[name] for name in ("generate", "scores")}


def test_the_vocabulary_says_what_the_new_tokens_are(tmp_path: Path) -> None:
    scores = {"tokenizer.ggml.scores": [-float(number) for number in range(VOCABULARY)]}
    file = save_gguf(
        tmp_path / "base.gguf",
        metadata={**scores, "llama.vocab_size": VOCABULARY, "tokenizer.ggml.add_bos_token": True,
                  "tokenizer.ggml.bos_token_id": 1, "tokenizer.chat_template": "the base's"},
    )  # fmt: skip
    *_, made = export(file, tmp_path, alone=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "model.gguf", "softprompt_tokens.json",
    ]  # fmt: skip
    tokens = made.metadata["tokenizer.ggml.tokens"]
    assert tokens[VOCABULARY:] == [
        *(f"<|words:{number}|>" for number in range(5)), *(f"<|kind:{number}|>" for number in range(3)), "<|pair:0|>",
    ]  # fmt: skip
    assert made.metadata["tokenizer.ggml.token_type"][VOCABULARY:] == [3] * 9
    assert made.metadata["tokenizer.ggml.scores"][VOCABULARY:] == [1.0 - VOCABULARY] * 9
    assert made.metadata["llama.vocab_size"] == VOCABULARY + 9
    assert made.metadata["tokenizer.ggml.add_bos_token"] is False
    assert "<|words:0|>" in made.metadata["tokenizer.chat_template"]
    told = (tmp_path / "out" / "README.md").read_text()
    assert "llama-server -m model.gguf" in told
    assert "transformers" not in told


def test_rows_beyond_the_tokens_get_names(tmp_path: Path) -> None:
    file = save_gguf(tmp_path / "base.gguf", model=make_model("llama", vocab_size=VOCABULARY + 8))
    *_, made = export(file, tmp_path)
    tokens = made.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == VOCABULARY + 8 + 9
    assert tokens[VOCABULARY] == f"<|unused:{VOCABULARY}|>"
    assert made.metadata["tokenizer.ggml.token_type"][VOCABULARY : VOCABULARY + 9] == [5] * 8 + [3]


def test_a_split_file_becomes_one(tmp_path: Path) -> None:
    whole = save_gguf(tmp_path / "whole.gguf")
    parts = split(whole, tmp_path / "parts", 3)
    *_, made = export(parts[0], tmp_path)
    assert len(made.files) == 1
    assert not [key for key in made.metadata if key.startswith("split.")]
    assert {tensor.name for tensor in made.tensors} == {tensor.name for tensor in read_gguf(parts[0]).tensors}


def test_a_head_in_a_type_that_is_not_written_becomes_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_gguf(tmp_path / "base.gguf", kind=Kind.Q8_0)

    def unknown(*given: Any, **more: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(gguf, "quantize", unknown)
    *_, made = export(file, tmp_path)
    head, old = made.tensor(HEAD), read_gguf(file).tensor(HEAD)
    assert head is not None
    assert old is not None
    assert head.kind == 0
    numbers = read_numbers(head)
    assert np.array_equal(numbers[:VOCABULARY], read_numbers(old))
    assert np.allclose(numbers[VOCABULARY:], numbers[:VOCABULARY].mean(0), atol=1e-6)


@hypothesis.given(
    arrays.arrays(np.float32, (3, 512), elements=st.floats(-4, 4, width=32)) | st.just(np.zeros((3, 512), np.float32))
)
@hypothesis.settings(deadline=None)
def test_q6_k_is_what_the_reader_of_gguf_reads(rows: Any) -> None:
    packed = pack_q6_k(rows)
    assert (packed.dtype, packed.shape) == (np.uint8, (3, 420))
    read = gguf.dequantize(packed, Kind.Q6_K)
    largest = np.abs(rows.reshape(3, 2, 256)).max(2).repeat(256, 1).reshape(3, 512)
    groups = np.abs(rows.reshape(3, -1, 16)).max(2).repeat(16, 1).reshape(3, 512)
    # Half a level of a group, and what its scale was rounded by: half of a 127th of the largest scale, for each level.
    assert (np.abs(read - rows) <= 0.52 * groups / 31 + 0.52 * largest / 127 + 2e-6).all()


def test_q6_k_of_a_head(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 256)).astype(np.float32)
    packed = pack_q6_k(rows)
    mean = gguf.dequantize(packed, Kind.Q6_K).mean(0)
    assert np.abs(gguf.dequantize(pack_q6_k(mean[None]), Kind.Q6_K)[0] - mean).max() < 0.02


def test_a_head_that_llama_takes_from_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_gguf(tmp_path / "base.gguf", "gemma2")
    base = FrozenBase.load(str(file), dtype="float32")
    with library_of(tmp_path / "home", base, file) as library:
        with pytest.raises(BaseModelError, match=r"'gemma2', whose head llama\.cpp takes from the table"):
            export_prompt(library, "words", tmp_path / "out", Format.GGUF)
        assert not (tmp_path / "out").exists()
        with pytest.warns(UserWarning, match="the folder alone is written"):
            done = export_tokens(library, TASKS, tmp_path / "out", base=WIDE)
        assert done.file is None
        assert not (tmp_path / "out" / "model.gguf").exists()
        check_answers(used(tmp_path / "out"), library, base)


def test_an_adapter_is_in_no_file(tmp_path: Path) -> None:
    """The tensors of the file are written as they are, and those of the folder with the adapter merged."""
    file = save_gguf(tmp_path / "base.gguf", "llama")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(FrozenBase.load(str(file), dtype="float32").model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    adapted.save_pretrained(tmp_path / "lora")
    base = FrozenBase.load(str(file), adapter=str(tmp_path / "lora"), dtype="float32")
    options = BaseOptions(adapter=str(tmp_path / "lora"), dtype="float32")
    with library_of(tmp_path / "home", base, file) as library:
        with pytest.raises(BaseModelError, match="a GGUF file would be the base without the adapter"):
            export_tokens(library, TASKS, tmp_path / "out", base=options, gguf_alone=True)
        assert not (tmp_path / "out").exists()
        with pytest.warns(UserWarning, match="the folder alone is written"):
            export_tokens(library, TASKS, tmp_path / "out", base=options)
        assert not (tmp_path / "out" / "model.gguf").exists()
        check_answers(used(tmp_path / "out"), library, base)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepieces_marks(prefix: bool, tmp_path: Path) -> None:
    """In transformers no mark stands behind a token of such a file, so a space must; llama.cpp puts one there itself."""
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(SENTENCES) - 259)]
    model = make_model("llama", vocab_size=len(SENTENCES))
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": SENTENCES,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.scores": [-float(at) for at in range(len(SENTENCES))],
        "tokenizer.ggml.merges": None, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.add_space_prefix": prefix,
    }  # fmt: skip
    file = save_gguf(tmp_path / "base.gguf", model=model, metadata=metadata)
    base = FrozenBase.load(str(file), dtype="float32")
    prompt = _prompt(base)
    with Library.open(tmp_path / "home") as library:
        library.publish(prompt.to_bytes(), base=str(file))
        export_tokens(library, ["words"], tmp_path / "out", base=WIDE)
    plain = used(tmp_path / "out")
    told = plain["known"]["tasks"]["words"]
    tokens = "<|words:0|><|words:1|>"
    assert told["input"][0][0].startswith(tokens)
    (ids,) = base.encode(["hello"])
    assert plain["ids"]("words", {"text": "hello"}) == [len(SENTENCES), len(SENTENCES) + 1, *ids]
    made = read_gguf(tmp_path / "out" / "model.gguf")
    if "input_gguf" in told:
        assert told["input_gguf"][0][0] == tokens
        assert "input_gguf" in (tmp_path / "out" / "README.md").read_text()
    assert f'"{tokens}" + last' in made.metadata["tokenizer.chat_template"]


def _prompt(base: FrozenBase) -> SoftPrompt:
    card = Card(
        task="words", base=base.name, fingerprint=base.fingerprint, num_virtual_tokens=2, token_dim=base.width, labels=None,
        metric="exact_match", input="{text}", max_new_tokens=4,
    )  # fmt: skip
    return SoftPrompt(base.embed(torch.tensor([260, 265])).float(), card)


def test_a_file_alone_is_compared_with_the_vectors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base whose model makes something else of tokens than of vectors is refused, whether or not a folder is written."""
    file = save_gguf(tmp_path / "base.gguf", "llama")

    def differs(base: FrozenBase, found_TV: torch.Tensor, wanted_TV: torch.Tensor) -> None:
        raise BaseModelError("it makes something else of tokens than of their vectors")

    monkeypatch.setattr(table, "_check", differs)
    with pytest.raises(BaseModelError, match="something else of tokens"):
        export(file, tmp_path, alone=True)
    assert not (tmp_path / "out").exists()
